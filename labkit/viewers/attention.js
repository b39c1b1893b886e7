// <labkit-attention>: the heads of a model over a text, where a weight comes from, what a head causes, and what each
// layer would say; the same text through several checkpoints.
//
// data = {maps: [{kind, rows: [T], columns: [S], layers: L, heads: H, key_value_heads: K, weights: base64 of 16-bit numbers,
//         of causal attention only what each token sees}], stages: [names], stage: name, focus: [layer, head, row],
//         subject: what every question says besides}
// ask(question) -> a promise of what labkit.interpret.CheckpointInspections.handle_request gives. chooseCheckpoint(name): shows another checkpoint by
// handing over other data; without it the viewer asks for them by itself.

const ATTENTION_WORDS = chinese ? {
  heads: "所有层与头", layer: "层", head: "头", key: "KV 头", lines: "连线", matrix: "矩阵", table: "表格", looks: "关注",
  from: "词元", to: "关注", share: "权重", empty: "还没有可显示的内容。", stage: "阶段",
  hint: "用鼠标或方向键选择一个头；选择左边的词元只看它的连线，再选右边的词元，看这个注意力权重如何得出。",
  causal: "自注意力（因果）", bidirectional: "编码器（双向）", cross: "交叉注意力", without: "消融这个头之后", zero: "置零", mean: "均值",
  next: "下一个词元", before: "之前", after: "之后", nats: "纳特", measure: "逐一消融所有头",
  lens: "每一层的预测（logit lens）", embedding: "嵌入", cell: "这个权重如何得出", dot: "点积", scale: "缩放", position: "位置项", score: "得分",
  value: "值向量的范数", inside: "位置信息已包含在 q 与 k 中", waiting: "…", at: "在其后：", bars: "条形：消融该头后，其后预测的变化：",
} : {
  heads: "All layers and heads", layer: "layer", head: "head", key: "KV head", lines: "lines", matrix: "matrix",
  table: "as a table", looks: "attends to", from: "token", to: "attends to", share: "weight", empty: "Nothing to show yet.",
  stage: "Stage",
  hint: "Choose a head with the mouse or the arrow keys. Choose a token on the left to see only its lines, then one on the right to see how that attention weight is computed.",
  causal: "self-attention, causal", bidirectional: "encoder, bidirectional", cross: "cross-attention",
  without: "With this head ablated", zero: "zero", mean: "mean", next: "next token", before: "before", after: "after", nats: "nats",
  measure: "Ablate each head in turn", bars: "Bars: how much the prediction changes when the head is ablated,",
  lens: "What each layer would predict (logit lens)", embedding: "embedding", cell: "How this weight is computed", dot: "dot product",
  scale: "scale", position: "position term", score: "score", value: "norm of the value vector",
  inside: "already in q and k", waiting: "…", at: "after",
};

// Okabe and Ito's colours, told apart by the colour-blind too. Heads that share a key head share its colour.
const COLOURS = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [128, 128, 128]];

const ATTENTION_STYLE = `
  :host { font: 14px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
    --ink: 0, 114, 178; --line: rgba(128, 128, 128, .35); --soft: rgba(128, 128, 128, .12); }
  .top { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: center; margin-bottom: 12px; }
  .top label { display: flex; gap: 10px; align-items: center; }
  .top input { width: 180px; accent-color: rgb(0, 114, 178); }
  .all { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
  .overview { flex: 0 1 auto; max-width: 100%; min-width: 0; }
  .overview p { max-width: 220px; margin: 8px 0 0; }
  .grid { display: grid; gap: 6px; margin-top: 6px; padding: 3px; width: max-content; }
  .grid button { padding: 2px; border: 2px solid transparent; border-radius: 6px; background: var(--soft);
    cursor: pointer; line-height: 0; }
  .grid button[aria-pressed="true"] { border-color: rgb(var(--ink)); }
  .grid canvas { border-radius: 3px; image-rendering: pixelated; }
  .effect { display: block; height: 5px; margin-top: 2px; background: #d55e00; border-radius: 2px; }
  .large { flex: 1 1 340px; min-width: 0; }
  .bar { display: flex; flex-wrap: wrap; gap: 8px; align-items: baseline; justify-content: space-between; }
  .plain { font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
    padding: 2px 10px; cursor: pointer; }
  .plain[aria-pressed="true"] { background: rgb(0, 114, 178); border-color: rgb(0, 114, 178); color: white; }
  button:focus-visible, .token:focus-visible, canvas:focus-visible { outline: 3px solid #e69f00; outline-offset: 1px; }
  canvas.square:focus-visible { outline-offset: -3px; }
  h3 { font-size: 14px; margin: 0; font-weight: 600; }
  .scroll { overflow-y: auto; max-height: 560px; margin-top: 8px; }
  .pair { position: relative; display: flex; justify-content: space-between; min-width: 260px; max-width: 560px; }
  .column { display: flex; flex-direction: column; z-index: 1; width: 30%; overflow: hidden; }
  .column.left { text-align: right; }
  .token { height: 22px; line-height: 22px; padding: 0 6px; white-space: pre; border-radius: 4px; cursor: pointer;
    font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; font-size: 13px; }
  .token.chosen { background: rgba(var(--ink), .2); }
  .token.picked { box-shadow: inset 0 0 0 2px #d55e00; }
  svg { position: absolute; inset: 0; width: 100%; height: 100%; }
  line { stroke: rgb(var(--ink)); stroke-width: 2.5; }
  .square { display: block; }
  .says { min-height: 1.4em; margin-top: 8px; overflow-wrap: anywhere; }
  .soft { opacity: .75; }
  .panels { display: flex; flex-wrap: wrap; gap: 16px 28px; margin-top: 14px; align-items: flex-start; }
  .panels > section { flex: 0 1 auto; min-width: 0; max-width: 100%; }
  table { border-collapse: collapse; margin-top: 6px; font-size: 13px; }
  td, th { text-align: left; padding: 2px 12px 2px 0; border-bottom: 1px solid var(--line); white-space: pre-wrap; font-weight: 400; }
  thead th { opacity: .75; }
  td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  td.piece { font-family: ui-monospace, Menlo, Consolas, monospace; white-space: pre; }
`;

const FULL = 65535; // a weight of 1
const SEEN = 0.02; // of a weight that is drawn as a line

class LabkitAttention extends Viewer {
  constructor() {
    super();
    Object.assign(this, { map: 0, layer: 0, head: 0, row: null, column: null, view: "lines", kind: "zero", answers: new Map() });
    this.render();
  }

  // Another text: forget what was asked of the one before. Another checkpoint: keep what is chosen.
  set data(data) {
    const subject = (shown) => JSON.stringify(shown && shown.subject);
    const same = Boolean(data && this._data && data.subject && subject(data) === subject(this._data));
    if (!same) { this.answers = new Map(); this.measured = null; }
    this.show(same ? { ...data, focus: null } : data);
  }

  get data() { return this._data; }

  show(data) {
    this._data = data && data.maps && data.maps.length ? data : null;
    if (this._data) {
      this.weights = data.maps.map((map) => new Uint16Array(Uint8Array.from(atob(map.weights), (c) => c.charCodeAt(0)).buffer));
      this.map = Math.min(this.map, data.maps.length - 1);
      if (data.focus) [this.layer, this.head, this.row] = data.focus;
      this.fit();
    }
    this.render();
  }

  get shown() { return this._data.maps[this.map]; }

  // Keep what is chosen where the model shown has it.
  fit() {
    const { layers, heads, rows, columns } = this.shown;
    this.layer = Math.min(this.layer, layers - 1);
    this.head = Math.min(this.head, heads - 1);
    if (this.row !== null && this.row >= rows.length) this.row = null;
    if (this.row === null || (this.column !== null && this.column >= columns.length)) this.column = null;
  }

  word(name) { return ATTENTION_WORDS[name]; }

  // What a token takes from each that it sees: of causal attention from those up to itself.
  line(layer, head, row) {
    const { rows, columns, heads, kind } = this.shown, T = rows.length, S = columns.length, before = layer * heads + head;
    const [start, length] = kind === "causal" ? [(before * T * (T + 1) + row * (row + 1)) / 2, row + 1] : [(before * T + row) * S, S];
    return Array.from(this.weights[this.map].subarray(start, start + length), (x) => x / FULL);
  }

  sees(row, column) { return this.shown.kind !== "causal" || column <= row; }

  keyHead(head) { return Math.floor((head * this.shown.key_value_heads) / this.shown.heads); }

  colour(head) { return this.shade(this.shown.key_value_heads < this.shown.heads ? COLOURS[this.keyHead(head) % COLOURS.length] : COLOURS[0]); }

  name(layer, head) {
    const shared = this.shown.key_value_heads < this.shown.heads ? ` · ${this.word("key")} ${this.keyHead(head) + 1}` : "";
    return `${this.word("layer")} ${layer + 1}, ${this.word("head")} ${head + 1}${shared}`;
  }

  // What `ask` says, each thing asked once: the answer, or null until it is there.
  asked(question) {
    const key = JSON.stringify(question);
    if (this.answers.has(key)) return this.answers.get(key);
    this.answers.set(key, null);
    const answers = this.answers;
    const put = (answer) => { answers.set(key, answer || { error: WAITING.nobody }); if (answers === this.answers) this.panels(); };
    if (!this.ask) { answers.set(key, { error: WAITING.gone }); return answers.get(key); }
    this.ask({ ...this._data.subject, ...question }).then(put, (error) => put({ error: String(error && error.message || error) }));
    return null;
  }

  question(what, more = {}) { return { what, stage: this._data.stage, map: this.map, ...more }; }

  // The token after which it is said what comes next, in a head's effect as in the layers' words: null for the last.
  place() { return this.row === null || this.shown.kind === "bidirectional" ? null : this.row; }

  after() {
    const { rows } = this._data.maps.find((map) => map.kind !== "cross" && map.kind !== "bidirectional") || this.shown, place = this.place();
    return `${this.word("at")} ${quoted(rows[place === null ? rows.length - 1 : place])}`;
  }

  render() {
    const sliding = this.shadowRoot.activeElement && this.shadowRoot.activeElement.matches(".top input");
    const root = make("div", {});
    this.shadowRoot.replaceChildren(make("style", {}, COMMON_STYLE + ATTENTION_STYLE), this.noticeLine(), root);
    if (!this._data) { root.append(make("p", { class: "soft" }, this.word("empty"))); return; }
    this.grid = make("div", { class: "overview" });
    this.big = make("div", { class: "large" });
    root.append(this.top(), make("div", { class: "all" }, this.grid, this.big));
    this.drawGrid();
    this.drawBig();
    if (sliding) this.shadowRoot.querySelector(".top input").focus();
  }

  button(text, pressed, press, attributes = {}) {
    const button = make("button", { type: "button", class: "plain", "aria-pressed": String(pressed), ...attributes }, text);
    button.addEventListener("click", press);
    return button;
  }

  top() {
    const { stages, stage, maps } = this._data, box = make("div", { class: "top" });
    if (stages && stages.length > 1) {
      const input = make("input", { type: "range", min: "0", max: String(stages.length - 1), step: "1", "aria-label": this.word("stage") });
      input.value = String(stages.indexOf(stage));
      input.setAttribute("aria-valuetext", stage);
      const name = make("b", { class: "stage" }, stage);
      input.addEventListener("input", () => { name.textContent = stages[input.value]; input.setAttribute("aria-valuetext", stages[input.value]); });
      input.addEventListener("change", () => this.slide(stages[input.value]));
      box.append(make("label", {}, this.word("stage"), input, name));
    }
    if (maps.length > 1) {
      const choices = maps.map((map, i) => this.button(this.word(map.kind), i === this.map, () => { this.map = i; this.fit(); this.render(); }));
      box.append(make("span", {}, ...choices.flatMap((choice) => [choice, " "])));
    } else box.append(make("span", { class: "soft" }, this.word(maps[0].kind)));
    this.problem = make("span", { role: "status" });
    box.append(this.problem);
    return box;
  }

  // The same text through another checkpoint, with the same head and tokens chosen.
  async slide(stage) {
    const question = { what: "view", stage }, key = JSON.stringify(question);
    if (this.chooseCheckpoint) { this.problem.textContent = this.word("waiting"); this.chooseCheckpoint(stage); return; }
    if (!this.answers.get(key)) {
      if (!this.ask) { this.problem.textContent = WAITING.gone; return; }
      this.problem.textContent = this.word("waiting");
      this.answers.set(key, await this.ask({ ...this._data.subject, ...question }) || { error: WAITING.nobody });
    }
    const answer = this.answers.get(key);
    if (answer.error) { this.problem.textContent = answer.error; this.answers.delete(key); return; }
    this.show({ ...answer, subject: this._data.subject });
  }

  drawGrid() {
    const { layers, heads } = this.shown;
    const grid = make("div", { class: "grid", role: "group", "aria-label": this.word("heads") });
    const size = heads > 8 ? 40 : 56;
    grid.style.gridTemplateColumns = `repeat(${heads}, max-content)`;
    for (let layer = 0; layer < layers; layer++)
      for (let head = 0; head < heads; head++) {
        const small = this.square(layer, head);
        small.style.width = small.style.height = `${size}px`;
        const button = make("button", { type: "button", "aria-label": this.name(layer, head), title: this.name(layer, head), "data-head": `${layer}-${head}` }, small);
        button.addEventListener("click", () => this.select(layer, head));
        grid.append(button);
      }
    grid.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      this.select((this.layer + step[0] + layers) % layers, (this.head + step[1] + heads) % heads);
    });
    this.below = make("p", { class: "soft", role: "status" });
    const measure = this.button(this.word("measure"), false, () => { this.measured = { place: this.place() }; this.effects(); }, { "data-measure": "" });
    this.grid.replaceChildren(make("h3", {}, this.word("heads")), sideways(this.word("heads"), grid), make("p", {}, measure), this.below);
    this.press();
    this.effects();
  }

  press() {
    for (const button of this.grid.querySelectorAll("[data-head]")) {
      const here = button.dataset.head === `${this.layer}-${this.head}`;
      button.setAttribute("aria-pressed", String(here));
      button.tabIndex = here ? 0 : -1;
    }
  }

  select(layer, head) {
    this.layer = layer; this.head = head;
    this.press();
    this.drawBig();
    this.grid.querySelector(`[data-head="${layer}-${head}"]`).focus();
    this.dispatchEvent(new CustomEvent("head", { detail: { layer, head }, bubbles: true, composed: true }));
  }

  // A bar under each head, once they were measured: how much the prediction changes without it, after the token that was
  // chosen then; after another they are measured when asked for again.
  effects() {
    this.grid.querySelectorAll(".effect").forEach((bar) => bar.remove());
    this.below.textContent = "";
    if (!this.measured || this.measured.place !== this.place()) return;
    const answer = this.asked(this.question("effects", { kind: this.kind, place: this.place() }));
    this.below.textContent = answer === null ? this.word("waiting") : answer.error || `${this.word("bars")} ${this.after()}`;
    if (!answer || answer.error) return;
    const most = Math.max(...answer.effects.flat(), 1e-9);
    answer.effects.forEach((row, layer) => row.forEach((nats, head) => {
      const button = this.grid.querySelector(`[data-head="${layer}-${head}"]`), bar = make("span", { class: "effect" });
      bar.style.width = `${(100 * nats) / most}%`;
      button.append(bar);
      button.title = `${this.name(layer, head)}: ${nats.toFixed(3)} ${this.word("nats")}`;
    }));
  }

  // One head's matrix, a pixel a pair of tokens.
  square(layer, head) {
    const { rows, columns } = this.shown, T = rows.length, S = columns.length, canvas = make("canvas", { width: S, height: T });
    const context = canvas.getContext("2d"), image = context.createImageData(S, T), [r, g, b] = this.colour(head);
    for (let i = 0; i < T; i++) {
      const row = this.line(layer, head, i);
      for (let j = 0; j < S; j++) image.data.set(this.sees(i, j) ? [r, g, b, Math.round(255 * Math.sqrt(row[j]))] : [128, 128, 128, 28], 4 * (i * S + j));
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  drawBig() {
    this.style.setProperty("--ink", this.colour(this.head).join(", "));
    const choices = make("span", {}, ...["lines", "matrix"].flatMap((view) => [
      this.button(this.word(view), view === this.view, () => { this.view = view; this.drawBig(); }, { "data-view": view }), " "]));
    const bar = make("div", { class: "bar" }, make("h3", { class: "which" }, this.name(this.layer, this.head)), choices);
    this.says = make("div", { class: "says", "aria-live": "polite" });
    const scroll = make("div", { class: "scroll" }, sideways(this.name(this.layer, this.head), this.view === "lines" ? this.lines() : this.matrix()));
    const table = make("details", {}, make("summary", {}, this.word("table")));
    table.addEventListener("toggle", () => { if (table.open && table.childElementCount === 1) table.append(this.table()); });
    this.below_ = make("div", { class: "panels", "aria-live": "polite" });
    this.big.replaceChildren(bar, scroll, this.says, table, this.below_);
    this.say(this.row);
    this.panels();
  }

  // Choose a token that looks, or with it one that is looked at.
  pick(row, column = null) {
    this.row = row; this.column = column;
    this.say(row);
    this.panels();
  }

  say(row) {
    this.says.classList.toggle("soft", row === null);
    if (row === null) { this.says.textContent = this.word("hint"); return; }
    const { rows, columns } = this.shown, line = this.line(this.layer, this.head, row);
    const best = [...line.keys()].filter((j) => line[j] > 0.05).sort((a, b) => line[b] - line[a]).slice(0, 4);
    this.says.textContent = `${quoted(rows[row])} ${this.word("looks")} ${best.map((j) => `${quoted(columns[j])} ${share(line[j])}`).join(", ")}`;
  }

  lines() {
    const { rows, columns } = this.shown, height = 22, most = Math.max(rows.length, columns.length);
    const box = make("div", { class: "pair" }), drawing = svg("svg", { viewBox: `0 0 100 ${most * height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    drawing.style.height = `${most * height}px`;
    const sides = ["left", "right"].map((side) => make("div", { class: `column ${side}` }));
    const draw = (only) => {
      drawing.replaceChildren();
      rows.forEach((_, i) => {
        if (only !== null && i !== only) return;
        const line = this.line(this.layer, this.head, i);
        line.forEach((weight, j) => { if (weight > SEEN)
          drawing.append(svg("line", { x1: 30, x2: 70, y1: (i + .5) * height, y2: (j + .5) * height, "stroke-opacity": Math.sqrt(weight).toFixed(3), "vector-effect": "non-scaling-stroke" })); });
      });
      const line = only === null ? null : this.line(this.layer, this.head, only);
      sides[0].childNodes.forEach((node, i) => node.classList.toggle("chosen", i === only));
      sides[1].childNodes.forEach((node, j) => {
        node.style.background = line ? `rgba(var(--ink), ${0.85 * (line[j] || 0)})` : "";
        node.classList.toggle("picked", this.row !== null && this.column === j);
      });
      this.say(only);
    };
    const fill = (side, tokens, first, choose) => tokens.forEach((token, i) => {
      const node = make("div", { class: "token", role: "button", tabindex: i === first ? "0" : "-1", "data-token": String(i) }, visible(token));
      node.addEventListener("click", () => { choose(i); draw(this.row); });
      node.addEventListener("keydown", (event) => {
        const next = { ArrowUp: i - 1, ArrowDown: i + 1, Home: 0, End: tokens.length - 1 }[event.key];
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); node.click(); return; }
        if (next === undefined || next < 0 || next >= tokens.length) return;
        event.preventDefault();
        node.tabIndex = -1;
        const other = side.childNodes[next]; other.tabIndex = 0; other.focus();
      });
      side.append(node);
    });
    fill(sides[0], rows, this.row || 0, (i) => this.pick(this.row === i && this.column === null ? null : i));
    sides[0].childNodes.forEach((node, i) => {
      node.addEventListener("mouseenter", () => draw(i));
      node.addEventListener("mouseleave", () => draw(this.row));
      node.addEventListener("focus", () => draw(i));
    });
    fill(sides[1], columns, this.column || 0, (j) => this.pick(this.row === null ? rows.length - 1 : this.row, j));
    box.append(drawing, ...sides);
    queueMicrotask(() => draw(this.row));
    return box;
  }

  // The matrix with its axes; the arrow keys move from cell to cell.
  matrix() {
    const { rows, columns } = this.shown, T = rows.length, S = columns.length;
    const narrow = (this.clientWidth || 900) < 560, left = narrow ? 70 : 90, top = left, room = Math.min(480, (this.clientWidth || 900) - left - 12);
    const cell = Math.max(9, Math.min(24, Math.floor(room / S), Math.floor(480 / T)));
    const letters = Math.max(9, Math.min(13, cell)), ratio = window.devicePixelRatio || 1;
    const canvas = make("canvas", { class: "square", width: Math.round((left + S * cell) * ratio), height: Math.round((top + T * cell) * ratio), tabindex: "0", role: "img", "aria-label": `${this.name(this.layer, this.head)}: ${this.word("matrix")}` });
    canvas.style.width = `${left + S * cell}px`;
    canvas.style.height = `${top + T * cell}px`;
    const small = this.square(this.layer, this.head), ink = getComputedStyle(this).color;
    const short = (token) => { const text = visible(token).trim() || visible(token); return text.length > left / 8 ? `${text.slice(0, Math.floor(left / 8) - 1)}…` : text; };
    const draw = () => {
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, left + S * cell, top + T * cell);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, left, top, S * cell, T * cell);
      context.font = `${letters}px ui-monospace, Menlo, Consolas, monospace`;
      context.fillStyle = ink; context.strokeStyle = "rgba(128, 128, 128, .35)";
      context.strokeRect(left, top, S * cell, T * cell);
      context.textBaseline = "middle";
      context.textAlign = "right";
      rows.forEach((token, i) => context.fillText(short(token), left - 5, top + (i + .5) * cell));
      context.textAlign = "left";
      columns.forEach((token, j) => { context.save(); context.translate(left + (j + .5) * cell, top - 5); context.rotate(-Math.PI / 2); context.fillText(short(token), 0, 0); context.restore(); });
      if (this.row !== null && this.column !== null) { context.strokeStyle = "#d55e00"; context.lineWidth = 2; context.strokeRect(left + this.column * cell, top + this.row * cell, cell, cell); context.lineWidth = 1; }
    };
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      const i = Math.floor((event.clientY - box.top - top) / cell), j = Math.floor((event.clientX - box.left - left) / cell);
      return i >= 0 && j >= 0 && i < T && j < S && this.sees(i, j) ? [i, j] : null;
    };
    const tell = ([i, j]) => { this.says.textContent = `${quoted(rows[i])} ${this.word("looks")} ${quoted(columns[j])}: ${share(this.line(this.layer, this.head, i)[j])}`; };
    const choose = (at) => { this.pick(...at); tell(at); draw(); };
    canvas.addEventListener("mousemove", (event) => { const at = place(event); if (at) tell(at); });
    canvas.addEventListener("mouseleave", () => this.say(this.row));
    canvas.addEventListener("click", (event) => { const at = place(event); if (at) choose(at); });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const i = Math.max(0, Math.min(T - 1, (this.row === null ? T - 1 : this.row) + step[0]));
      let j = Math.max(0, Math.min(S - 1, (this.column === null ? 0 : this.column) + step[1]));
      if (!this.sees(i, j)) j = i;
      choose([i, j]);
    });
    draw();
    return canvas;
  }

  table() {
    const { rows, columns } = this.shown;
    return this.listing(["from", "to", "share"].map((name) => this.word(name)), rows.map((token, i) => {
      const line = this.line(this.layer, this.head, i), best = [...line.keys()].filter((j) => line[j] > 0).sort((a, b) => line[b] - line[a]).slice(0, 3);
      return [`${i + 1} ${visible(token)}`, best.map((j) => visible(columns[j]).trim()).join(" · "), best.map((j) => share(line[j])).join(" · ")];
    }));
  }

  listing(names, rows) {
    const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)));
    const body = rows.map((row) => make("tr", {}, ...row.map((cell, i) => make("td", { class: i === 0 ? "piece" : typeof cell === "number" ? "number" : "" }, typeof cell === "number" ? cell.toFixed(3) : cell))));
    return sideways(names.join(" "), make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // What was asked for: the head's effect, the layers' words, and a cell's arithmetic.
  panels() {
    if (!this._data || !this.below_) return;
    const sections = [this.without(), this.lens()];
    if (this.row !== null && this.column !== null) sections.unshift(this.cell());
    const inside = this.shadowRoot.activeElement, again = inside && inside.dataset.kind;
    this.below_.replaceChildren(...sections);
    if (again) this.below_.querySelector(`[data-kind="${again}"]`).focus();
    if (this.grid.isConnected) this.effects();
  }

  section(name, title, answer, fill) {
    const box = make("section", { "data-panel": name }, make("h3", {}, title));
    if (answer === null) box.append(make("p", { class: "soft" }, this.word("waiting")));
    else if (answer.error) box.append(make("p", { class: "soft" }, answer.error));
    else fill(box, answer);
    return box;
  }

  without() {
    const answer = this.asked(this.question("without", { layer: this.layer, head: this.head, kind: this.kind, place: this.place() }));
    const kinds = make("span", {}, ...["zero", "mean"].flatMap((kind) => [this.button(this.word(kind), kind === this.kind, () => { this.kind = kind; this.panels(); }, { "data-kind": kind }), " "]));
    const box = this.section("without", `${this.word("without")} (${this.after()})`, answer, (box, { kl_nats: nats, top_tokens }) => box.append(
      make("p", {}, `${nats.toFixed(3)} ${this.word("nats")}`),
      this.listing(["next", "before", "after"].map((name) => this.word(name)), top_tokens.map(([text, before, after]) => [visible(text), share(before), share(after)]))));
    box.firstChild.after(kinds);
    return box;
  }

  lens() {
    const at = this.place();
    const { rows } = this._data.maps.find((map) => map.kind !== "cross" && map.kind !== "bidirectional") || this.shown;
    return this.section("lens", `${this.word("lens")} (${this.after()})`, this.asked({ what: "lens", stage: this._data.stage }), (box, { lens }) => {
      const cut = rows.length - lens[0].length, place = at === null ? lens[0].length - 1 : at - cut;
      if (place < 0) { box.append(make("p", { class: "soft" }, "–")); return; }
      box.append(this.listing([this.word("layer"), "", ""], lens.map((layer, i) => [i === 0 ? this.word("embedding") : String(i),
        layer[place].map(([text]) => visible(text)).join(" · "), layer[place].map(([, p]) => share(p)).join(" · ")])));
    });
  }

  cell() {
    const { rows, columns } = this.shown, where = { layer: this.layer, head: this.head, row: this.row, column: this.column };
    const title = `${this.word("cell")}: ${quoted(rows[this.row])} → ${quoted(columns[this.column])}`;
    return this.section("cell", title, this.asked(this.question("cell", where)), (box, cell) => {
      const position = Math.abs(cell.position_bias) < 5e-4 * (1 + Math.abs(cell.score)) ? this.word("inside") : cell.position_bias.toFixed(3);
      const line = this.line(this.layer, this.head, this.row); // one number, one percentage, wherever it stands
      box.append(
        this.listing(["", ""], [[`q·k (${cell.head_dim})`, cell.dot], [`× ${this.word("scale")}`, cell.scale], [`+ ${this.word("position")}`, position], [`= ${this.word("score")}`, cell.score], ["softmax", share(line[this.column])]]),
        this.listing([this.word("to"), this.word("score"), this.word("share"), this.word("value")], cell.top_keys.map(([j, score, , length]) => [visible(columns[j]), score, share(line[j]), length])));
    });
  }
}

customElements.define("labkit-attention", LabkitAttention);

// <labkit-attention>: the heads of a model over a text, where a weight comes from, what a head causes, and what each
// layer would say; the same text through several checkpoints.
//
// data = {maps: [{kind, rows: [T], columns: [S], layers: L, heads: H, key_heads: K, weights: base64 of L*H*T*S bytes}],
//         stages: [names], stage: name, focus: [layer, head, row]}
// ask(question) -> a promise of what labkit.interpret.Views.answer gives.

const ATTENTION_WORDS = chinese ? {
  heads: "所有层与头", layer: "层", head: "头", key: "键头", lines: "连线", matrix: "矩阵", table: "表格", looks: "看向",
  from: "词元", to: "看向", share: "比例", empty: "还没有可显示的内容。", stage: "检查点",
  hint: "用鼠标或方向键选择一个头；选择左边的词元只看它的连线，再选右边的词元看这个数字从何而来。",
  causal: "自注意力（因果）", bidirectional: "编码器（双向）", cross: "交叉注意力", without: "去掉这个头", zero: "置零", mean: "均值",
  next: "下一个词元", before: "之前", after: "之后", nats: "纳特", measure: "测量所有头", effects: "条形：去掉该头后预测的变化",
  lens: "每一层会说什么", embedding: "嵌入", cell: "这个数字从何而来", dot: "点积", scale: "缩放", position: "位置项", score: "得分",
  value: "值的长度", inside: "位置已在 q 与 k 中", waiting: "…", nobody: "需要运行中的内核。", at: "于",
} : {
  heads: "All layers and heads", layer: "layer", head: "head", key: "key head", lines: "lines", matrix: "matrix",
  table: "as a table", looks: "looks at", from: "token", to: "looks at", share: "share", empty: "Nothing to show yet.",
  stage: "Checkpoint",
  hint: "Choose a head with the mouse or the arrow keys. Choose a token on the left to see only its lines, then one on the right to see where that number comes from.",
  causal: "self-attention, causal", bidirectional: "encoder, both ways", cross: "cross-attention",
  without: "Without this head", zero: "zero", mean: "mean", next: "next token", before: "before", after: "after", nats: "nats",
  measure: "Measure all heads", effects: "Bars: how much the prediction changes without the head.",
  lens: "What each layer would say", embedding: "embedding", cell: "Where this number comes from", dot: "dot product",
  scale: "scale", position: "position term", score: "score", value: "length of the value",
  inside: "the position is inside q and k", waiting: "…", nobody: "This needs the running kernel.", at: "after",
};

// Okabe and Ito's colours, told apart by the colour-blind too. Heads that share a key head share its colour.
const COLOURS = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [128, 128, 128]];

const ATTENTION_STYLE = `
  :host { display: block; color: inherit; font: 14px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
    --ink: 0, 114, 178; --line: rgba(128, 128, 128, .35); --soft: rgba(128, 128, 128, .12); }
  .top { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: center; margin-bottom: 12px; }
  .top label { display: flex; gap: 10px; align-items: center; }
  .top input { width: 180px; accent-color: rgb(0, 114, 178); }
  .all { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
  .overview { flex: 0 1 auto; max-width: 100%; }
  .overview p { max-width: 220px; margin: 8px 0 0; }
  .grid { display: grid; gap: 6px; margin-top: 6px; overflow-x: auto; max-width: 100%; padding: 3px; }
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
  .scroll { overflow: auto; max-height: 560px; margin-top: 8px; }
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
  .panels > section { flex: 0 1 auto; min-width: 0; max-width: 100%; overflow-x: auto; }
  table { border-collapse: collapse; margin-top: 6px; font-size: 13px; }
  td, th { text-align: left; padding: 2px 12px 2px 0; border-bottom: 1px solid var(--line); white-space: pre-wrap; font-weight: 400; }
  thead th { opacity: .75; }
  td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  td.piece { font-family: ui-monospace, Menlo, Consolas, monospace; }
`;

class LabkitAttention extends HTMLElement {
  constructor() {
    super();
    this.attachShadow({ mode: "open" });
    Object.assign(this, { map: 0, layer: 0, head: 0, row: null, column: null, view: "lines", kind: "zero", answers: new Map() });
    this.render();
  }

  // Another text: forget what was asked of the one before.
  set data(data) {
    this.answers = new Map();
    this.wanted = false;
    this.show(data);
  }

  get data() { return this._data; }

  show(data) {
    this._data = data && data.maps && data.maps.length ? data : null;
    if (this._data) {
      this.weights = data.maps.map((map) => Uint8Array.from(atob(map.weights), (c) => c.charCodeAt(0)));
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

  line(layer, head, row) {
    const { rows, columns, heads } = this.shown, S = columns.length, start = ((layer * heads + head) * rows.length + row) * S;
    return this.weights[this.map].subarray(start, start + S);
  }

  sees(row, column) { return this.shown.kind !== "causal" || column <= row; }

  keyHead(head) { return Math.floor((head * this.shown.key_heads) / this.shown.heads); }

  colour(head) { return this.shown.key_heads < this.shown.heads ? COLOURS[this.keyHead(head) % COLOURS.length] : COLOURS[0]; }

  name(layer, head) {
    const shared = this.shown.key_heads < this.shown.heads ? ` · ${this.word("key")} ${this.keyHead(head) + 1}` : "";
    return `${this.word("layer")} ${layer + 1}, ${this.word("head")} ${head + 1}${shared}`;
  }

  // What `ask` says, each thing asked once: the answer, or null until it is there.
  asked(question) {
    const key = JSON.stringify(question);
    if (this.answers.has(key)) return this.answers.get(key);
    this.answers.set(key, null);
    const answers = this.answers;
    const put = (answer) => { answers.set(key, answer || { error: this.word("nobody") }); if (answers === this.answers) this.panels(); };
    if (!this.ask) { answers.set(key, { error: this.word("nobody") }); return answers.get(key); }
    this.ask({ ...this._data.subject, ...question }).then(put, (error) => put({ error: String(error && error.message || error) }));
    return null;
  }

  question(what, more = {}) { return { what, stage: this._data.stage, map: this.map, ...more }; }

  render() {
    const root = make("div", {});
    this.shadowRoot.replaceChildren(make("style", {}, ATTENTION_STYLE), root);
    if (!this._data) { root.append(make("p", { class: "soft" }, this.word("empty"))); return; }
    this.grid = make("div", { class: "overview" });
    this.big = make("div", { class: "large" });
    root.append(this.top(), make("div", { class: "all" }, this.grid, this.big));
    this.drawGrid();
    this.drawBig();
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
    if (!this.answers.get(key)) {
      if (!this.ask) { this.problem.textContent = this.word("nobody"); return; }
      this.problem.textContent = this.word("waiting");
      this.answers.set(key, await this.ask({ ...this._data.subject, ...question }) || { error: this.word("nobody") });
    }
    const answer = this.answers.get(key);
    if (answer.error) { this.problem.textContent = answer.error; this.answers.delete(key); return; }
    this.show({ ...answer, subject: this._data.subject });
    const slider = this.shadowRoot.querySelector(".top input");
    if (slider) slider.focus();
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
    const measure = this.button(this.word("measure"), false, () => { this.wanted = true; this.effects(); }, { "data-measure": "" });
    this.grid.replaceChildren(make("h3", {}, this.word("heads")), grid, make("p", {}, measure), this.below);
    this.press();
    if (this.wanted) this.effects();
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

  // A bar under each head: how much the prediction changes without it.
  effects() {
    const answer = this.asked(this.question("effects", { kind: this.kind }));
    this.below.textContent = answer === null ? this.word("waiting") : answer.error || this.word("effects");
    if (!answer || answer.error) return;
    const most = Math.max(...answer.effects.flat(), 1e-9);
    answer.effects.forEach((row, layer) => row.forEach((nats, head) => {
      const button = this.grid.querySelector(`[data-head="${layer}-${head}"]`), bar = button.querySelector(".effect") || make("span", { class: "effect" });
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
      for (let j = 0; j < S; j++) image.data.set(this.sees(i, j) ? [r, g, b, Math.round(255 * Math.sqrt(row[j] / 255))] : [128, 128, 128, 28], 4 * (i * S + j));
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
    const scroll = make("div", { class: "scroll" }, this.view === "lines" ? this.lines() : this.matrix());
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
    const best = [...line.keys()].filter((j) => line[j] > 12).sort((a, b) => line[b] - line[a]).slice(0, 4);
    this.says.textContent = `${quoted(rows[row])} ${this.word("looks")} ${best.map((j) => `${quoted(columns[j])} ${whole(line[j])}`).join(", ")}`;
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
        for (let j = 0; j < columns.length; j++) if (line[j] > 5)
          drawing.append(svg("line", { x1: 30, x2: 70, y1: (i + .5) * height, y2: (j + .5) * height, "stroke-opacity": line[j] / 255, "vector-effect": "non-scaling-stroke" }));
      });
      const line = only === null ? null : this.line(this.layer, this.head, only);
      sides[0].childNodes.forEach((node, i) => node.classList.toggle("chosen", i === only));
      sides[1].childNodes.forEach((node, j) => {
        node.style.background = line ? `rgba(var(--ink), ${line[j] / 300})` : "";
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
    const { rows, columns } = this.shown, T = rows.length, S = columns.length, cell = Math.max(9, Math.min(24, Math.floor(480 / Math.max(T, S))));
    const letters = Math.min(13, cell), left = 90, top = 90, ratio = window.devicePixelRatio || 1;
    const canvas = make("canvas", { class: "square", width: Math.round((left + S * cell) * ratio), height: Math.round((top + T * cell) * ratio), tabindex: "0", role: "img", "aria-label": `${this.name(this.layer, this.head)}: ${this.word("matrix")}` });
    canvas.style.width = `${left + S * cell}px`;
    canvas.style.height = `${top + T * cell}px`;
    const small = this.square(this.layer, this.head), ink = getComputedStyle(this).color;
    const short = (token) => { const text = visible(token).trim() || visible(token); return text.length > 12 ? `${text.slice(0, 11)}…` : text; };
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
    const tell = ([i, j]) => { this.says.textContent = `${quoted(rows[i])} ${this.word("looks")} ${quoted(columns[j])}: ${whole(this.line(this.layer, this.head, i)[j])}`; };
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
      return [`${i + 1} ${visible(token)}`, best.map((j) => visible(columns[j]).trim()).join(" · "), best.map((j) => whole(line[j])).join(" · ")];
    }));
  }

  listing(names, rows) {
    const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)));
    const body = rows.map((row) => make("tr", {}, ...row.map((cell, i) => make("td", { class: i === 0 ? "piece" : typeof cell === "number" ? "number" : "" }, typeof cell === "number" ? cell.toFixed(3) : cell))));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  }

  // What was asked for: the head's effect, the layers' words, and a cell's arithmetic.
  panels() {
    if (!this._data || !this.below_) return;
    const sections = [this.without(), this.lens()];
    if (this.row !== null && this.column !== null) sections.unshift(this.cell());
    const inside = this.shadowRoot.activeElement, again = inside && inside.dataset.kind;
    this.below_.replaceChildren(...sections);
    if (again) this.below_.querySelector(`[data-kind="${again}"]`).focus();
    if (this.wanted && this.grid.isConnected) this.effects();
  }

  section(name, title, answer, fill) {
    const box = make("section", { "data-panel": name }, make("h3", {}, title));
    if (answer === null) box.append(make("p", { class: "soft" }, this.word("waiting")));
    else if (answer.error) box.append(make("p", { class: "soft" }, answer.error));
    else fill(box, answer);
    return box;
  }

  without() {
    const answer = this.asked(this.question("without", { layer: this.layer, head: this.head, kind: this.kind }));
    const kinds = make("span", {}, ...["zero", "mean"].flatMap((kind) => [this.button(this.word(kind), kind === this.kind, () => { this.kind = kind; this.panels(); }, { "data-kind": kind }), " "]));
    const box = this.section("without", this.word("without"), answer, (box, { nats, leading }) => box.append(
      make("p", {}, `${nats.toFixed(3)} ${this.word("nats")}`),
      this.listing(["next", "before", "after"].map((name) => this.word(name)), leading.map(([text, before, after]) => [visible(text), share(before), share(after)]))));
    box.firstChild.after(kinds);
    return box;
  }

  lens() {
    const at = this.row === null || this._data.maps[this.map].kind === "bidirectional" ? null : this.row;
    const { rows } = this._data.maps.find((map) => map.kind !== "cross" && map.kind !== "bidirectional") || this.shown;
    const token = at === null ? rows[rows.length - 1] : rows[at];
    return this.section("lens", `${this.word("lens")} (${this.word("at")} ${quoted(token)})`, this.asked({ what: "lens", stage: this._data.stage }), (box, { lens }) => {
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
      const position = Math.abs(cell.position) < 5e-4 * (1 + Math.abs(cell.score)) ? this.word("inside") : cell.position.toFixed(3);
      box.append(
        this.listing(["", ""], [[`q·k (${cell.width})`, cell.dot], [`× ${this.word("scale")}`, cell.scale], [`+ ${this.word("position")}`, position], [`= ${this.word("score")}`, cell.score], ["softmax", share(cell.weight)]]),
        this.listing([this.word("to"), this.word("score"), this.word("share"), this.word("value")], cell.leading.map(([j, score, weight, length]) => [visible(columns[j]), score, share(weight), length])));
    });
  }
}

customElements.define("labkit-attention", LabkitAttention);

// Custom elements that show what labkit measured. No framework, no network; every text is set as text, never as markup.
// The app (gr.HTML) and notebooks (anywidget) both hand a viewer its `data`; see labkit/ui/viewers.py.

(() => {
  if (customElements.get("labkit-attention")) return;

  // The app's words are in words.py; these are the viewers' own, and notebooks see them too.
  const chinese = navigator.language.toLowerCase().startsWith("zh");
  const WORDS = chinese ? {
    heads: "所有层与头", layer: "层", head: "头", lines: "连线", matrix: "矩阵", table: "表格",
    looks: "看向", from: "词元", to: "看向", share: "比例", empty: "还没有可显示的内容。",
    hint: "用鼠标或方向键选择一个头；指向一个词元，只看它的连线。",
  } : {
    heads: "All layers and heads", layer: "layer", head: "head", lines: "lines", matrix: "matrix", table: "as a table",
    looks: "looks at", from: "token", to: "looks at", share: "share", empty: "Nothing to show yet.",
    hint: "Choose a head with the mouse or the arrow keys; point at a token to see only its lines.",
  };

  const STYLE = `
    :host { display: block; color: inherit; font: 14px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
      --ink: 0, 114, 178; --line: rgba(128, 128, 128, .35); --soft: rgba(128, 128, 128, .12); }
    .all { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
    .overview { flex: 0 0 auto; max-width: 100%; }
    .grid { display: grid; gap: 6px; margin-top: 6px; }
    .grid button { padding: 2px; border: 2px solid transparent; border-radius: 6px; background: var(--soft);
      cursor: pointer; line-height: 0; }
    .grid button[aria-pressed="true"] { border-color: rgb(var(--ink)); }
    .grid canvas { width: 56px; height: 56px; image-rendering: pixelated; border-radius: 3px; }
    .large { flex: 1 1 340px; min-width: 0; }
    .bar { display: flex; flex-wrap: wrap; gap: 8px; align-items: baseline; justify-content: space-between; }
    .bar button { font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line);
      border-radius: 6px; padding: 2px 10px; cursor: pointer; }
    .bar button[aria-pressed="true"] { background: rgb(var(--ink)); border-color: rgb(var(--ink)); color: white; }
    button:focus-visible, .token:focus-visible { outline: 3px solid #e69f00; outline-offset: 1px; }
    h3 { font-size: 14px; margin: 0; font-weight: 600; }
    .scroll { overflow: auto; max-height: 560px; margin-top: 8px; }
    .pair { position: relative; display: flex; justify-content: space-between; min-width: 260px; max-width: 560px; }
    .column { display: flex; flex-direction: column; z-index: 1; }
    .column.left { text-align: right; }
    .token { height: 22px; line-height: 22px; padding: 0 6px; white-space: pre; border-radius: 4px; cursor: default;
      font-family: ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; font-size: 13px; }
    .token.chosen { background: rgba(var(--ink), .2); }
    svg { position: absolute; inset: 0; width: 100%; height: 100%; }
    line { stroke: rgb(var(--ink)); stroke-width: 2.5; }
    .square { display: block; image-rendering: pixelated; border: 1px solid var(--line); max-width: 100%; }
    .says { min-height: 1.4em; margin-top: 8px; overflow-wrap: anywhere; }
    .soft { opacity: .7; }
    table { border-collapse: collapse; margin-top: 6px; font-size: 13px; }
    td, th { text-align: left; padding: 2px 12px 2px 0; border-bottom: 1px solid var(--line); white-space: pre-wrap; }
  `;

  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children); // strings become text nodes
    return node;
  };

  const svg = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };

  const visible = (token) => (/^ +$/.test(token) ? "␣".repeat(token.length) : token.replace(/\n/g, "⏎")) || "∅";
  const percent = (byte) => `${Math.round((100 * byte) / 255)} %`;

  // data = {tokens: [T strings], layers: L, heads: H, weights: base64 of L * H * T * T bytes}
  class LabkitAttention extends HTMLElement {
    constructor() {
      super();
      this.attachShadow({ mode: "open" });
      this.layer = 0; this.head = 0; this.chosen = null; this.view = "lines";
      this.render();
    }

    set data(data) {
      this._data = data;
      this.weights = data ? Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0)) : null;
      if (data) {
        this.layer = Math.min(data.focus ? data.focus[0] : this.layer, data.layers - 1);
        this.head = Math.min(data.focus ? data.focus[1] : this.head, data.heads - 1);
        const token = data.focus ? data.focus[2] : this.chosen;
        this.chosen = token != null && token < data.tokens.length ? token : null;
      }
      this.render();
    }

    get data() { return this._data; }

    word(name) { return WORDS[name]; }

    row(layer, head, from) {
      const T = this._data.tokens.length, start = ((layer * this._data.heads + head) * T + from) * T;
      return this.weights.subarray(start, start + T);
    }

    name(layer, head) { return `${this.word("layer")} ${layer + 1}, ${this.word("head")} ${head + 1}`; }

    render() {
      const root = make("div", { class: "all" });
      this.shadowRoot.replaceChildren(make("style", {}, STYLE), root);
      if (!this._data || !this._data.tokens.length) { root.append(make("p", { class: "soft" }, this.word("empty"))); return; }
      root.append(this.overview(), this.large());
    }

    overview() {
      const { layers, heads } = this._data;
      const grid = make("div", { class: "grid", role: "group", "aria-label": this.word("heads") });
      grid.style.gridTemplateColumns = `repeat(${heads}, max-content)`;
      for (let layer = 0; layer < layers; layer++)
        for (let head = 0; head < heads; head++) {
          const here = layer === this.layer && head === this.head;
          const button = make("button", {
            type: "button", "aria-pressed": String(here), "aria-label": this.name(layer, head),
            title: this.name(layer, head), tabindex: here ? "0" : "-1", "data-head": `${layer}-${head}`,
          }, this.square(layer, head));
          button.addEventListener("click", () => this.select(layer, head));
          grid.append(button);
        }
      grid.addEventListener("keydown", (event) => {
        const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (!step) return;
        event.preventDefault();
        this.select((this.layer + step[0] + layers) % layers, (this.head + step[1] + heads) % heads);
      });
      return make("div", { class: "overview" }, make("h3", {}, this.word("heads")), grid);
    }

    select(layer, head) {
      this.layer = layer; this.head = head;
      this.render();
      this.shadowRoot.querySelector(`[data-head="${layer}-${head}"]`).focus();
      this.dispatchEvent(new CustomEvent("head", { detail: { layer, head }, bubbles: true, composed: true }));
    }

    // One head's matrix, a pixel a pair of tokens.
    square(layer, head) {
      const T = this._data.tokens.length, canvas = make("canvas", { width: T, height: T });
      const context = canvas.getContext("2d"), image = context.createImageData(T, T);
      for (let i = 0; i < T; i++) {
        const row = this.row(layer, head, i);
        for (let j = 0; j < T; j++) image.data.set([0, 114, 178, Math.round(255 * Math.sqrt(row[j] / 255))], 4 * (i * T + j));
      }
      context.putImageData(image, 0, 0);
      return canvas;
    }

    large() {
      const buttons = ["lines", "matrix"].map((view) => {
        const button = make("button", { type: "button", "aria-pressed": String(view === this.view), "data-view": view }, this.word(view));
        button.addEventListener("click", () => { this.view = view; this.render(); });
        return button;
      });
      const choices = make("span", {}); choices.append(buttons[0], " ", buttons[1]);
      const bar = make("div", { class: "bar" }, make("h3", { class: "which" }, this.name(this.layer, this.head)), choices);
      this.says = make("div", { class: "says", "aria-live": "polite" });
      const scroll = make("div", { class: "scroll" }, this.view === "lines" ? this.lines() : this.matrix());
      const table = make("details", {}, make("summary", {}, this.word("table")));
      table.addEventListener("toggle", () => { if (table.open && table.childElementCount === 1) table.append(this.table()); });
      this.say(this.chosen);
      return make("div", { class: "large" }, bar, scroll, this.says, table);
    }

    say(token) {
      if (token === null) { this.says.textContent = this.word("hint"); this.says.classList.add("soft"); return; }
      const { tokens } = this._data, row = this.row(this.layer, this.head, token);
      const best = [...row.keys()].filter((j) => row[j] > 12).sort((a, b) => row[b] - row[a]).slice(0, 4);
      const listed = best.map((j) => `“${visible(tokens[j]).trim() || visible(tokens[j])}” ${percent(row[j])}`).join(", ");
      this.says.textContent = `“${visible(tokens[token]).trim()}” ${this.word("looks")} ${listed}`;
      this.says.classList.remove("soft");
    }

    lines() {
      const { tokens } = this._data, T = tokens.length, height = 22;
      const box = make("div", { class: "pair" }), drawing = svg("svg", { viewBox: `0 0 100 ${T * height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
      const columns = ["left", "right"].map((side) => make("div", { class: `column ${side}` }));
      const draw = (only) => {
        drawing.replaceChildren();
        for (let i = 0; i < T; i++) {
          if (only !== null && i !== only) continue;
          const row = this.row(this.layer, this.head, i);
          for (let j = 0; j < T; j++) if (row[j] > 5)
            drawing.append(svg("line", {
              x1: 30, x2: 70, y1: (i + .5) * height, y2: (j + .5) * height, "stroke-opacity": row[j] / 255,
              "vector-effect": "non-scaling-stroke",
            }));
        }
        columns[0].childNodes.forEach((node, i) => node.classList.toggle("chosen", i === only));
        const row = only === null ? null : this.row(this.layer, this.head, only);
        columns[1].childNodes.forEach((node, j) => { node.style.background = row ? `rgba(var(--ink), ${row[j] / 300})` : ""; });
        this.say(only);
      };
      tokens.forEach((token, i) => {
        const left = make("div", { class: "token", tabindex: i === (this.chosen || 0) ? "0" : "-1", "data-token": String(i) }, visible(token));
        left.addEventListener("mouseenter", () => draw(i));
        left.addEventListener("mouseleave", () => draw(this.chosen));
        left.addEventListener("click", () => { this.chosen = this.chosen === i ? null : i; draw(this.chosen); });
        left.addEventListener("focus", () => draw(i));
        left.addEventListener("keydown", (event) => {
          const next = { ArrowUp: i - 1, ArrowDown: i + 1, Home: 0, End: T - 1 }[event.key];
          if (event.key === "Enter" || event.key === " ") { event.preventDefault(); left.click(); return; }
          if (next === undefined || next < 0 || next >= T) return;
          event.preventDefault();
          left.tabIndex = -1;
          const node = columns[0].childNodes[next]; node.tabIndex = 0; node.focus();
        });
        columns[0].append(left);
        columns[1].append(make("div", { class: "token" }, visible(token)));
      });
      columns[0].style.width = columns[1].style.width = "30%";
      columns.forEach((column) => { column.style.overflow = "hidden"; });
      box.append(drawing, ...columns);
      queueMicrotask(() => draw(this.chosen));
      return box;
    }

    matrix() {
      const T = this._data.tokens.length, canvas = this.square(this.layer, this.head);
      canvas.className = "square";
      canvas.style.width = `${Math.min(520, Math.max(200, 14 * T))}px`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", this.name(this.layer, this.head));
      canvas.addEventListener("mousemove", (event) => {
        const box = canvas.getBoundingClientRect();
        const place = (at, start, size) => Math.max(0, Math.min(T - 1, Math.floor(((at - start) / size) * T)));
        const i = place(event.clientY, box.top, box.height), j = place(event.clientX, box.left, box.width);
        const { tokens } = this._data;
        this.says.textContent = `“${visible(tokens[i]).trim()}” ${this.word("looks")} “${visible(tokens[j]).trim()}” ${percent(this.row(this.layer, this.head, i)[j])}`;
      });
      canvas.addEventListener("mouseleave", () => this.say(this.chosen));
      return canvas;
    }

    table() {
      const { tokens } = this._data, head = make("tr", {}, ...["from", "to", "share"].map((name) => make("th", { scope: "col" }, this.word(name))));
      const rows = tokens.map((token, i) => {
        const row = this.row(this.layer, this.head, i), best = [...row.keys()].filter((j) => row[j] > 0).sort((a, b) => row[b] - row[a]).slice(0, 3);
        return make("tr", {}, make("td", {}, `${i + 1} ${visible(token)}`), make("td", {}, best.map((j) => visible(tokens[j]).trim()).join(" · ")), make("td", {}, best.map((j) => percent(row[j])).join(" · ")));
      });
      return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
    }
  }

  const TEXTS_STYLE = `
    :host { display: block; color: inherit; font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
      --ink: 0, 114, 178; --line: rgba(128, 128, 128, .35); --soft: rgba(128, 128, 128, .12); }
    .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 14px; }
    .column { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; min-width: 0; }
    h3 { font-size: 13px; margin: 0 0 6px; font-weight: 600; opacity: .8; }
    .text { white-space: pre-wrap; overflow-wrap: anywhere; min-height: 1.5em; }
    .token { font: inherit; color: inherit; background: none; border: 0; padding: 0; margin: 0; cursor: pointer;
      white-space: pre-wrap; border-radius: 3px; text-align: left; }
    .token:hover { background: var(--soft); }
    .token[aria-pressed="true"] { background: rgba(var(--ink), .25); }
    .token.parts { box-shadow: inset 0 -3px #d55e00; font-weight: 600; }
    .token:focus-visible { outline: 3px solid #e69f00; outline-offset: 1px; }
    .soft { opacity: .7; }
    .more { margin-top: 12px; overflow-x: auto; }
    table { border-collapse: collapse; font-size: 13px; margin-top: 4px; }
    td, th { padding: 2px 14px 2px 0; text-align: left; border-bottom: 1px solid var(--line); }
    td.number { text-align: right; font-variant-numeric: tabular-nums; }
    td.piece { font-family: ui-monospace, Menlo, Consolas, monospace; white-space: pre; }
    tr.drawn td { font-weight: 700; }
    .measure { display: inline-block; height: 9px; background: rgb(var(--ink)); border-radius: 2px; }
  `;
  const TEXTS_WORDS = chinese ? {
    parts: "带下划线的词元是第一个不同之处。", same: "到目前为止完全相同。",
    token: "候选", probability: "模型", kept: "过滤之后", waiting: "…", cut: " ✂ 未完", removed: "已去除",
    hint: "选择一个词元，看看还可能出现什么。", end: "⏹ 结束",
  } : {
    parts: "The underlined token is the first that differs.", same: "All are the same so far.",
    token: "candidate", probability: "the model", kept: "after the filters", waiting: "…", cut: " ✂ not ended", removed: "removed",
    hint: "Choose a token to see what else could have come.", end: "⏹ end",
  };

  // data = {columns: [{label, done, tokens: [{text, ended, candidates: [[text, probability, kept, drawn], …]}, …]}, …],
  //         parts: index or null}
  class LabkitTexts extends HTMLElement {
    constructor() {
      super();
      this.attachShadow({ mode: "open" });
      this.chosen = null;
      this.render();
    }

    set data(data) {
      if (!data || !this._data || data.key !== this._data.key) this.chosen = null;
      this._data = data;
      this.render();
    }

    get data() { return this._data; }

    word(name) { return TEXTS_WORDS[name]; }

    render() {
      const focused = this.shadowRoot.activeElement && this.shadowRoot.activeElement.dataset.place;
      this.shadowRoot.replaceChildren(make("style", {}, TEXTS_STYLE));
      if (!this._data) return;
      const { columns, parts } = this._data;
      const root = make("div", { class: "columns" }, ...columns.map((column, c) => this.column(column, c, parts)));
      const note = make("p", { class: "soft" }, parts === null ? this.word("same") : this.word("parts"));
      this.shadowRoot.append(root, ...(columns.length > 1 ? [note] : []), this.more());
      if (focused) { const node = this.shadowRoot.querySelector(`[data-place="${focused}"]`); if (node) node.focus(); }
    }

    column(column, c, parts) {
      const text = make("div", { class: "text" });
      column.tokens.forEach((token, t) => {
        const button = make("button", { type: "button", class: t === parts ? "token parts" : "token", "data-place": `${c}-${t}`,
          "aria-pressed": String(Boolean(this.chosen && this.chosen[0] === c && this.chosen[1] === t)) }, token.ended ? this.word("end") : token.text);
        button.addEventListener("click", () => { this.chosen = [c, t]; this.render(); });
        button.addEventListener("keydown", (event) => {
          const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
          const next = step && this.shadowRoot.querySelector(`[data-place="${c}-${t + step}"]`);
          if (next) { event.preventDefault(); next.focus(); }
        });
        text.append(button);
      });
      const last = column.tokens[column.tokens.length - 1];
      if (!column.done) text.append(make("span", { class: "soft" }, this.word("waiting")));
      else if (last && !last.ended) text.append(make("span", { class: "soft" }, this.word("cut")));
      return make("div", { class: "column", "data-done": String(Boolean(column.done)) }, make("h3", {}, column.label), text);
    }

    more() {
      const box = make("div", { class: "more", "aria-live": "polite" });
      const token = this.chosen && (this._data.columns[this.chosen[0]] || { tokens: [] }).tokens[this.chosen[1]];
      if (!token) { box.append(make("span", { class: "soft" }, this.word("hint"))); return box; }
      const head = make("tr", {}, ...["token", "probability", "kept"].map((name) => make("th", { scope: "col" }, this.word(name))), make("th", {}));
      const rows = token.candidates.map(([text, probability, kept, drawn]) => {
        const measure = make("span", { class: "measure" });
        measure.style.width = `${Math.round(120 * probability)}px`;
        return make("tr", drawn ? { class: "drawn" } : {},
          make("td", { class: "piece" }, `${drawn ? "▸" : " "}${visible(text)}`),
          make("td", { class: "number" }, `${(100 * probability).toFixed(1)} %`),
          make("td", { class: "number" }, kept > 0 ? `${(100 * kept).toFixed(1)} %` : this.word("removed")),
          make("td", {}, measure));
      });
      box.append(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
      return box;
    }
  }

  customElements.define("labkit-attention", LabkitAttention);
  customElements.define("labkit-texts", LabkitTexts);
})();

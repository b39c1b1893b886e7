// <labkit-texts>: texts side by side, token by token, with the candidates of a chosen one.

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

customElements.define("labkit-texts", LabkitTexts);

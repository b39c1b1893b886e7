// <labkit-texts>: texts side by side, token by token; of a chosen token its candidates, what each filter did to them, and
// other continuations; of beam search its tree; and a link that writes the same texts again.

const TEXTS_STYLE = `
  :host { font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
    --ink: 0, 114, 178; --warm: 213, 94, 0; --line: rgba(128, 128, 128, .35); --soft: rgba(128, 128, 128, .12); }
  .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(230px, 100%), 1fr)); gap: 14px; align-items: start; }
  .column { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; min-width: 0; }
  .column.branch { border-style: dashed; }
  .name { display: flex; gap: 8px; align-items: baseline; margin: 0 0 6px; }
  h3 { font-size: 13px; margin: 0; font-weight: 600; opacity: .85; flex: 1; overflow-wrap: anywhere; }
  h4 { font-size: 13px; margin: 14px 0 4px; }
  .text { white-space: pre-wrap; overflow-wrap: anywhere; min-height: 1.5em; }
  .token { cursor: pointer; white-space: pre-wrap; border-radius: 3px; }
  .token:hover { background: var(--soft); }
  .token[aria-pressed="true"] { background: rgba(var(--ink), .25); }
  .token.parts { box-shadow: inset 0 -3px rgb(var(--warm)); font-weight: 600; }
  .token.begun { opacity: .65; }
  .token:focus-visible, button:focus-visible, input:focus-visible, select:focus-visible { outline: 3px solid #e69f00; outline-offset: 1px; }
  .small { font: inherit; font-size: 12px; color: inherit; background: var(--soft); border: 1px solid var(--line);
    border-radius: 5px; padding: 1px 8px; cursor: pointer; }
  .small:disabled { opacity: .35; cursor: default; }
  .soft { opacity: .7; }
  .entropy { display: block; width: 100%; height: 34px; margin-top: 8px; }
  .more { margin-top: 12px; display: flex; flex-wrap: wrap; gap: 6px 28px; }
  .more > * { flex: 0 1 auto; min-width: 0; max-width: 100%; }
  .more > .filters { flex: 1 1 400px; }
  table { border-collapse: collapse; font-size: 13px; margin-top: 4px; }
  td, th { padding: 2px 10px 2px 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
  td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
  td.piece { font-family: ui-monospace, Menlo, Consolas, monospace; white-space: pre; }
  th.wraps { white-space: normal; vertical-align: bottom; }
  .answers { margin-top: 8px; font-size: 13px; }
  .answers td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
  .answers td.number { white-space: nowrap; }
  tr.chosen td { font-weight: 700; }
  td .gone { color: rgb(var(--warm)); }
  .filter { display: grid; grid-template-columns: 1.6em 1.6em minmax(90px, 120px) 74px 1fr 1.8em; gap: 6px; align-items: center;
    padding: 3px 0; font-size: 13px; }
  .filter input, .add select, .link input, .link textarea { font: inherit; font-size: 13px; color: inherit; background: transparent;
    border: 1px solid var(--line); border-radius: 5px; padding: 1px 6px; width: 100%; box-sizing: border-box; }
  .add select option { color: #222; background: #fff; }
  .bar { position: relative; height: 20px; background: var(--soft); border-radius: 4px; overflow: hidden; }
  .bar i { position: absolute; inset: 0 auto 0 0; background: rgba(var(--ink), .45); }
  .bar b { position: absolute; inset: 0 0 0 auto; background: rgba(var(--warm), .75); }
  .bar span { position: absolute; inset: 0 6px; font-size: 12px; line-height: 20px; white-space: nowrap; }
  @container (max-width: 560px) {
    .filter { grid-template-columns: 2em 2em 1fr 74px 2em; }
    .filter .bar { grid-column: 1 / -1; order: 1; }
    [data-found] tr { display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line); padding: 4px 0; }
    [data-found] td, [data-found] th { border: 0; }
    [data-found] td:last-child { grid-column: 1 / -1; }
    [data-found] thead th:last-child { display: none; }
  }
  .add { display: flex; gap: 8px; margin: 8px 0; flex-wrap: wrap; align-items: center; }
  .add select { width: auto; }
  .line { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12px; overflow-wrap: anywhere; }
  .tree { border: 1px solid var(--line); border-radius: 8px; margin-top: 6px; }
  .tree text { font-size: 11px; fill: currentColor; font-family: ui-monospace, Menlo, Consolas, monospace; }
  .tree .pruned { opacity: .4; }
  .tree .ended { fill: #00805d; font-weight: 700; }
  :host(.dark) .tree .ended { fill: #3fd0a5; }
  :host(.dark) { --ink: 86, 180, 233; --warm: 255, 145, 70; }
  .tree .best { fill: rgb(var(--warm)); font-weight: 700; }
  .tree path { fill: none; stroke: currentColor; opacity: .3; }
  .tree path.best { stroke: rgb(var(--warm)); stroke-width: 2; opacity: 1; }
  .controls { display: flex; gap: 16px; align-items: center; flex-wrap: wrap; font-size: 13px; }
  .link { margin-top: 12px; font-size: 13px; }
  .link textarea { height: 90px; font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12px; margin-top: 6px; }
  .pair { display: flex; gap: 8px; margin-top: 6px; }
`;
const TEXTS_WORDS = chinese ? {
  parts: "橙色下划线标出文本开始不同的位置：在此之前它们相同。", same: "到目前为止完全相同。", token: "候选", model: "模型", waiting: "…", cut: " ✂ 未完",
  removed: "已去除", hint: "选择一个词元：查看候选词元和每个过滤器的作用，并从那里分支。", end: "■ 结束", branch: "分支", close: "关闭",
  filters: "过滤器，按顺序", removes: "去除", moves: "转移", left: (n) => `还剩 ${n} 个词元`, effects: "去除：被过滤掉的词元原有的概率。转移：从一些词元移到另一些词元的概率。还剩：概率不为零的词元数。", scale: "得分 = 对数概率 ÷ 词元数^长度惩罚；对数概率为自然对数，0 为必然，越负越不可能。得分最高者胜出，以橙色标出；绿色为已结束的文本。", up: "上移", down: "下移",
  remove: "移除过滤器", add: "添加过滤器…", reset: "重置", logp: "对数概率", go: "用这些过滤器从这里续写", entropy: "熵（纳特）：模型 / 过滤之后",
  tree: "束搜索树", penalty: "长度惩罚", pruned: "显示被剪枝的文本", link: "链接与 JSON", copy: "复制", copied: "已复制", asking: "…", generating: "正在生成…",
  penaltyOf: "相似度惩罚：与之前词元的最大余弦", ranked: "得分", contrast: "对比搜索选择得分最高者：(1 − α)·概率 − α·相似度，α =", answers: "全部回答（按得分排序）", worth: "得分", answer: "回答",
  equal: "完全相同。", bars: "条形为每个词元的熵（纳特）：浅色为模型，蓝色为过滤之后。", stopText: "■ 停止文本", stopped: " ✂ 已停止",
  nothing: "没有改变", length: "词元数（含结束）", score: "得分",
} : {
  parts: "The orange underline marks where the texts diverge: up to there they are the same.", same: "All texts are the same so far.", token: "candidate", model: "the model",
  waiting: "…", cut: " ✂ not ended", removed: "removed", end: "■ end", branch: "branch", close: "close",
  hint: "Choose a token to see its candidates and what each filter did, and to branch from it.",
  filters: "Filters, in the order applied", removes: "removes", moves: "shifts", left: (n) => `${n} ${n === 1 ? "token" : "tokens"} left`,
  effects: "Removes: the probability of the tokens that a filter removes. Shifts: the probability that it moves from some tokens to others. Tokens left: how many have a probability above zero.",
  scale: "Score = log-probability ÷ tokens to the power of the length penalty. The log-probability is in nats: 0 is certain, lower is less likely. The text with the highest score wins and is orange; texts that ended are green.",
  up: "move earlier", down: "move later", remove: "remove this filter", add: "add a filter …", reset: "Reset", logp: "log-probability",
  go: "Generate a continuation with these", entropy: "entropy in nats: of the model / after the filters", tree: "beam tree",
  penalty: "length penalty", pruned: "show pruned texts", link: "Link and JSON", copy: "Copy", copied: "Copied", asking: "…",
  generating: "Generating …", penaltyOf: "similarity: largest cosine to an earlier token", ranked: "score",
  contrast: "Contrastive search chooses the token with the highest score: (1 − α) · probability − α · similarity, with α =",
  answers: "All answers, the best first", worth: "score", answer: "answer",
  equal: "All texts are the same.", bars: "Bars: the entropy at each token, pale for the model and blue after the filters.",
  stopText: "■ end or stop text", stopped: " ✂ stopped", nothing: "changes nothing", length: "tokens (incl. end)", score: "score",
};
const MORE_FILTERS = { temperature: "0.8", "top-k": "40", "top-p": "0.9", "min-p": "0.1", typical: "0.9", epsilon: "0.01", repetition: "1.2",
  presence: "0.5", frequency: "0.5", "no-repeat": "3", ban: "dog", allow: "dog" };

// data = {key, settings, columns: [{strategy, kind, head, filters: [[name, value]], begins: [ids], done,
//         tokens: [{id, text, ended, entropy: [model's, left]}]}], parts: index or null}
class LabkitTexts extends Viewer {
  constructor() {
    super();
    this.forget();
    this.render();
  }

  forget() {
    this.chosen = this.step = this.filters = this.tree = this.trouble = null;
    this.branches = [];
    this.stops = new Map(); // of each column the token at which the Tab key stops
    this.asked = {};
    this.pending = 0;
  }

  set data(data) {
    if (!data || !this._data || data.key !== this._data.key) this.forget();
    this._data = data;
    this.render();
  }

  get data() { return this._data; }

  word(name) { return TEXTS_WORDS[name]; }

  columns() { return [...this._data.columns, ...this.branches]; }

  // Asks, and shows what went wrong; null when nobody answered, or what is shown is another text by now. Of a token and of
  // a tree the newest question counts; every branch that was asked for comes.
  async question(what, column) {
    const mine = (this.asked[what] = (this.asked[what] || 0) + 1), { key, settings } = this._data;
    if (what !== "step") { this.pending += 1; this.render(); }
    let answer = null;
    try {
      answer = this.ask ? await this.ask({ what, settings, column }) : { error: WAITING.gone };
    } catch (error) { answer = { error: String((error && error.message) || error) }; }
    if (!this._data || key !== this._data.key) return null;
    if (what !== "step") this.pending -= 1;
    if (what !== "branch" && mine !== this.asked[what]) return null;
    this.trouble = answer ? answer.error || null : WAITING.nobody;
    if (this.trouble || what !== "step") this.render();
    return this.trouble ? null : answer;
  }

  // The tokens of a column up to and with the one in this place.
  upTo(column, place) { return column.tokens.slice(0, place + 1).map((token) => token.id); }

  line(column, filters) { return [column.head, ...filters.map(([name, value]) => `${name}=${value}`)].filter(Boolean).join(" ") || "sample"; }

  async choose(c, t) {
    const column = this.columns()[c];
    this.chosen = [c, t];
    this.step = null;
    this.filters = column.filters.map((one) => [...one]);
    this.render();
    await this.weigh();
  }

  async weigh() {
    const [c, t] = this.chosen, column = this.columns()[c];
    if (column.tokens[t].id < 0) return;
    const found = await this.question("step", { strategy: this.line(column, this.filters), begins: this.upTo(column, t) });
    if (found) this.step = found;
    else if (this.trouble && this.step) this.step.effects = [];
    this.render();
  }

  async branch(strategy, begins) {
    const found = await this.question("branch", { strategy, begins });
    if (!found) return;
    this.branches.push(found);
    this.render();
    const all = this.shadowRoot.querySelectorAll(".column"), still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    all[all.length - 1].scrollIntoView({ block: "nearest", behavior: still ? "auto" : "smooth" });
  }

  // A branch is taken away, one that came with a link too; what was chosen may have been in it.
  close(c) {
    const given = this._data.columns.length, without = (columns) => columns.filter((_, i) => i !== c);
    if (c >= given) this.branches.splice(c - given, 1);
    else this._data = { ...this._data, columns: without(this._data.columns), settings: { ...this._data.settings, columns: without(this._data.settings.columns) } };
    if (this.tree) this.tree = this.tree.c === c ? null : { ...this.tree, c: this.tree.c - (this.tree.c > c) };
    this.chosen = null;
    this.stops.clear();
    this.render();
  }

  async openTree(c, strategy) {
    const column = this.columns()[c];
    const found = await this.question("tree", { strategy: strategy || column.strategy, begins: column.begins });
    const at = this.columns().indexOf(column);  // others may have been closed meanwhile
    if (found && at >= 0) { this.tree = { ...found, c: at, pruned: this.tree ? this.tree.pruned : true, shown: found.penalty }; this.render(); }
  }

  render() {
    const focused = this.shadowRoot.activeElement && this.shadowRoot.activeElement.dataset.place;
    const scrolled = (this.shadowRoot.querySelector(".tree .inner") || {}).scrollLeft || 0;
    const open = [...this.shadowRoot.querySelectorAll("details[data-open]")].filter((box) => box.open).map((box) => box.dataset.open);
    this.shadowRoot.replaceChildren(make("style", {}, COMMON_STYLE + TEXTS_STYLE), this.noticeLine());
    if (!this._data) return;
    const { parts } = this._data, columns = this.columns();
    const most = Math.max(1, ...columns.flatMap((column) => column.tokens.map((token) => (token.entropy || [0])[0])));
    const root = make("div", { class: "columns" }, ...columns.map((column, c) => this.column(column, c, parts, most)));
    const over = columns.every((column) => column.done && !column.stopped);
    const said = parts !== null ? "parts" : over ? "equal" : "same";
    const note = make("p", { class: "soft" }, `${this._data.columns.length > 1 ? this.word(said) : ""} ${this.word("bars")}`);
    this.shadowRoot.append(root, note, make("p", { class: "soft", role: "status", "data-pending": "" }, this.pending ? this.word("generating") : ""), this.more());
    if (this.trouble && !this.step) this.shadowRoot.append(make("p", { class: "problem", role: "alert" }, this.trouble));
    if (this.tree) this.shadowRoot.append(this.treeView());
    if (columns.every((column) => column.done)) this.shadowRoot.append(this.link());
    const tree = this.shadowRoot.querySelector(".tree .inner");
    if (tree) tree.scrollLeft = scrolled;
    for (const box of this.shadowRoot.querySelectorAll("details[data-open]")) box.open = open.includes(box.dataset.open);
    if (focused) { const node = this.shadowRoot.querySelector(`[data-place="${focused}"]`); if (node) node.focus(); }
  }

  button(text, act, attributes = {}) {
    const button = make("button", { type: "button", class: "small", ...attributes }, text);
    button.addEventListener("click", act);
    return button;
  }

  column(column, c, parts, most) {
    const text = make("div", { class: "text", role: "group", "aria-label": column.strategy }), own = c >= this._data.columns.length;
    column.tokens.forEach((token, t) => {
      const names = ["token", ...(!own && t === parts ? ["parts"] : []), ...(t < column.begins.length ? ["begun"] : [])];
      const button = make("span", { role: "button", class: names.join(" "), "data-place": `${c}-${t}`,
        "aria-pressed": String(Boolean(this.chosen && this.chosen[0] === c && this.chosen[1] === t)) }, token.ended ? this.word(token.stop ? "stopText" : "end") : t ? token.text : token.text.trimStart());
      button.addEventListener("click", () => this.choose(c, t));
      button.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.choose(c, t); }
      });
      button.addEventListener("focus", () => this.stops.set(c, t));
      text.append(button);
    });
    roving([...text.children], this.stops.get(c) || 0);
    const last = column.tokens[column.tokens.length - 1];
    if (!column.done) text.append(make("span", { class: "soft" }, this.word("waiting")));
    else if (column.stopped) text.append(make("span", { class: "soft" }, this.word("stopped")));
    else if (last && !last.ended) text.append(make("span", { class: "soft" }, this.word("cut")));
    const name = make("div", { class: "name" }, make("h3", {}, column.strategy));
    if (column.kind === "beam" && column.done) name.append(this.button(this.word("tree"), () => this.openTree(c), { "data-tree": "" }));
    if (column.done && (own || column.begins.length)) name.append(this.button("✕", () => this.close(c), { "aria-label": this.word("close"), "data-close": "" }));
    return make("div", { class: column.begins.length ? "column branch" : "column", "data-done": String(Boolean(column.done)) }, name, text, this.entropy(column, most), ...(column.answers ? [this.answers(column, c)] : []));
  }

  // Of best of n: all answers with what the judge gave each.
  answers(column, c) {
    const rows = column.answers.map(([text, worth, chosen]) => make("tr", chosen ? { class: "chosen" } : {},
      make("td", { class: "number" }, worth.toFixed(3)), make("td", {}, `${chosen ? "▸ " : ""}${text.trim()}`)));
    const head = make("tr", {}, make("th", { scope: "col", class: "number" }, this.word("worth")), make("th", { scope: "col" }, this.word("answer")));
    return make("details", { class: "answers", "data-open": `answers-${c}` }, make("summary", {}, `${this.word("answers")} (${rows.length})`),
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  // Bars: the model's entropy at each token, pale, and in front what the filters left of it.
  entropy(column, most) {
    const known = column.tokens.filter((token) => token.entropy);
    const view = svg("svg", { class: "entropy", viewBox: `0 0 ${Math.max(40, column.tokens.length)} 34`, preserveAspectRatio: "none", role: "img" });
    const title = svg("title", {});
    title.textContent = this.word("entropy");
    view.append(title);
    if (!known.length) return view;
    column.tokens.forEach((token, t) => {
      (token.entropy || []).forEach((nats, k) => {
        const height = (32 * nats) / most;
        view.append(svg("rect", { x: t + 0.1, y: 34 - height, width: 0.8, height, fill: k ? "rgb(0, 114, 178)" : "rgba(128, 128, 128, .45)" }));
      });
    });
    return view;
  }

  more() {
    const box = make("div", { class: "more", "aria-live": "polite" });
    const column = this.chosen && this.columns()[this.chosen[0]];
    const token = column && column.tokens[this.chosen[1]];
    if (!token) { box.append(make("span", { class: "soft" }, this.word("hint"))); return box; }
    if (token.id < 0) return box;
    if (!this.step) { box.append(make("span", { class: "soft" }, this.trouble ? "" : this.word("asking"))); return box; }
    if (this.step.contrast) { box.append(this.contrast(column, token)); return box; }
    box.append(this.candidates(column, token), this.waterfall(column));
    return box;
  }

  candidates(column, token) {
    const { names, candidates, entropy } = this.step, before = this.upTo(column, this.chosen[1]).slice(0, -1);
    const rows = candidates.map(([id, text, probability, after]) => [id, text, [share(probability),
      ...after.map((p) => (p > 0 ? share(p) : make("span", { class: "gone" }, this.word("removed"))))], [...before, id]]);
    const nats = `${this.word("entropy")}: ${entropy.map((x) => x.toFixed(2)).join(" / ")}`;
    return make("div", {}, this.listed([this.word("model"), ...names], rows, token, this.line(column, this.filters)), make("p", { class: "soft" }, nats));
  }

  // What contrastive search weighs: a likely token loses what it has in common with those before.
  contrast(column, token) {
    const before = this.upTo(column, this.chosen[1]).slice(0, -1);
    const rows = this.step.contrast.map(([id, text, probability, similarity, score]) => [id, text, [share(probability), similarity.toFixed(3), score.toFixed(3)], [...before, id]]);
    const heads = ["model", "penaltyOf", "ranked"].map((name) => this.word(name));
    return make("div", {}, this.listed(heads, rows, token, column.strategy), make("p", { class: "soft" }, `${this.word("contrast")} ${this.step.alpha}`));
  }

  // Candidates, a row each: the token, a button that branches there, which is one stop for all of them, and its numbers.
  listed(heads, rows, token, strategy) {
    const head = make("tr", {}, make("th", { scope: "col" }, this.word("token")), make("th", {}), ...heads.map((name) => make("th", { scope: "col", class: "number wraps" }, name)));
    const buttons = rows.map(([id, text, , begins]) => this.button(this.word("branch"), () => this.branch(strategy, begins), { "data-branch": id, "aria-label": `${this.word("branch")}: ${visible(text)}` }));
    roving(buttons, 0, ["ArrowUp", "ArrowDown"]);
    const body = rows.map(([id, text, numbers], i) => make("tr", id === token.id ? { class: "chosen" } : {},
      make("td", { class: "piece" }, `${id === token.id ? "▸" : " "}${visible(text)}`), make("td", {}, buttons[i]),
      ...numbers.map((number) => make("td", { class: "number" }, number))));
    return sideways(this.word("token"), make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // The filters in their order, each with what it does to what reaches it; to be moved, changed, removed and added.
  waterfall(column) {
    const change = (act) => () => { act(); this.weigh(); };
    const swap = (i, j) => { [this.filters[i], this.filters[j]] = [this.filters[j], this.filters[i]]; };
    const rows = this.filters.map(([name, value], i) => {
      const input = make("input", { value, "aria-label": name, "data-filter": name });
      input.addEventListener("change", change(() => { this.filters[i][1] = input.value.trim(); }));
      const up = this.button("↑", change(() => swap(i, i - 1)), { "aria-label": `${name}: ${this.word("up")}`, "data-up": i });
      const down = this.button("↓", change(() => swap(i, i + 1)), { "aria-label": `${name}: ${this.word("down")}`, "data-down": i });
      up.disabled = i === 0;
      down.disabled = i + 1 === this.filters.length;
      const away = this.button("✕", change(() => this.filters.splice(i, 1)), { "aria-label": `${name}: ${this.word("remove")}` });
      return make("div", { class: "filter" }, up, down, make("span", {}, name), input, this.effect(this.step.effects[i]), away);
    });
    if (column.kind === "greedy") rows.push(make("div", { class: "filter" }, make("span"), make("span"), make("span", {}, "greedy"), make("span"), this.effect(this.step.effects[this.filters.length])));
    const select = make("select", { "aria-label": this.word("add") }, make("option", { value: "" }, this.word("add")),
      ...Object.keys(MORE_FILTERS).map((name) => make("option", { value: name }, name)));
    select.addEventListener("change", change(() => this.filters.push([select.value, MORE_FILTERS[select.value]])));
    const line = this.line(column, this.filters), before = this.upTo(column, this.chosen[1]).slice(0, -1);
    const go = this.button(this.word("go"), () => this.branch(line, before), { "data-go": "" });
    const reset = this.button(this.word("reset"), change(() => { this.filters = column.filters.map((one) => [...one]); }));
    return make("div", { class: "filters" }, make("h4", {}, this.word("filters")), ...rows, ...(rows.length ? [make("p", { class: "soft" }, this.word("effects"))] : []), ...(this.trouble ? [make("p", { class: "problem", role: "alert" }, this.trouble)] : []),
      make("div", { class: "add" }, select, go, reset), make("div", { class: "line" }, line));
  }

  effect(effect) {
    if (!effect) return make("div", { class: "bar" });
    const [removed, moved, left] = effect, kept = make("i"), gone = make("b");
    kept.style.width = `${100 * (1 - removed)}%`;
    gone.style.width = `${100 * removed}%`;
    const said = removed > 0.00005 ? `${this.word("removes")} ${share(removed)}` : moved > 0.00005 ? `${this.word("moves")} ${share(moved)}` : this.word("nothing");
    return make("div", { class: "bar", title: `${said} · ${this.word("left")(left)}` }, kept, gone, make("span", {}, `${said} · ${this.word("left")(left)}`));
  }

  // The score of a text that ended, as beam search ranks it: log-probability over length to the power of the penalty.
  scoreOf([, , logprob, step], penalty) { return logprob / (step + 1) ** penalty; }

  treeView() {
    const { nodes, beams, shown, pruned, c } = this.tree, box = make("div", { "data-view": "tree" }, make("h4", {}, `${this.word("tree")}: ${this.tree.strategy}`));
    const ended = nodes.map((node, i) => i).filter((i) => nodes[i][4] === "ended").sort((i, j) => this.scoreOf(nodes[j], shown) - this.scoreOf(nodes[i], shown));
    const best = new Set();
    for (let i = ended.length ? ended[0] : -1; i >= 0; i = nodes[i][0]) best.add(i);
    const range = make("input", { type: "range", min: "-1", max: "3", step: "0.1", value: String(shown), "aria-label": this.word("penalty"), "data-place": "penalty" });
    range.addEventListener("input", () => { this.tree.shown = Number(range.value); this.render(); });
    range.addEventListener("change", () => this.openTree(c, this.columns()[c].strategy.replace(/ length-penalty=\S+/, "").replace(/^beam/, `beam length-penalty=${range.value}`)));
    const check = make("input", { type: "checkbox", "data-place": "pruned" });
    check.checked = pruned;
    check.addEventListener("change", () => { this.tree.pruned = check.checked; this.render(); });
    box.append(make("div", { class: "controls" }, make("label", {}, `${this.word("penalty")} ${shown.toFixed(1)} `, range), make("label", {}, check, ` ${this.word("pruned")}`),
      this.button("✕", () => { this.tree = null; this.render(); }, { "aria-label": this.word("close") })));
    box.append(make("p", { class: "soft" }, this.word("scale")), this.treePicture(nodes, best, pruned ? beams : 0));
    const path = (i) => (i < 0 ? "" : path(nodes[i][0]) + nodes[i][1]);
    const rows = ended.slice(0, beams).map((i, rank) => make("tr", rank ? {} : { class: "chosen" }, make("td", { class: "number" }, this.scoreOf(nodes[i], shown).toPrecision(3)),
      make("td", { class: "number" }, nodes[i][2].toFixed(2)), make("td", { class: "number" }, String(nodes[i][3] + 1)), make("td", { style: "white-space: normal; overflow-wrap: anywhere" }, path(i))));
    const head = make("tr", {}, ...[this.word("score"), this.word("logp"), this.word("length"), ""].map((name) => make("th", { scope: "col", class: "number" }, name)));
    box.append(make("table", { "data-found": "" }, make("thead", {}, head), make("tbody", {}, ...rows)));
    return box;
  }

  // One column a step: the beams that went on, those that ended, and of those that were pruned the `most` best.
  treePicture(nodes, best, most) {
    const steps = [], at = {}, wide = 92, high = 19, rank = { kept: 0, ended: 1, pruned: 2 };
    const short = (text) => { const said = visible(text).trim() || visible(text); return said.length > 9 ? `${said.slice(0, 8)}…` : said; };
    nodes.forEach((node, i) => (steps[node[3]] = steps[node[3]] || []).push(i));
    let tall = 1;
    steps.forEach((group, s) => {
      group.sort((i, j) => rank[nodes[i][4]] - rank[nodes[j][4]] || nodes[j][2] - nodes[i][2]);
      const drawn = group.filter((i) => nodes[i][4] !== "pruned"), pruned = group.filter((i) => nodes[i][4] === "pruned").slice(0, most);
      [...drawn, ...pruned].forEach((i, y) => { at[i] = [30 + s * wide, 18 + y * high]; });
      tall = Math.max(tall, drawn.length + pruned.length);
    });
    const view = svg("svg", { width: 60 + steps.length * wide, height: tall * high + 14, role: "img" });
    const labels = [];
    nodes.forEach(([parent, text, logprob, , fate], i) => {
      if (!at[i]) return;
      const [x, y] = at[i], [px, py] = parent < 0 ? [0, 18] : [at[parent][0] + 6.7 * short(nodes[parent][1]).length + 3, at[parent][1]];
      const class_ = best.has(i) ? "best" : fate;
      view.append(svg("path", { d: `M${px},${py - 4} C${(px + x) / 2},${py - 4} ${(px + x) / 2},${y - 4} ${x - 3},${y - 4}`, class: class_ }));
      const label = svg("text", { x, y, class: class_ }), title = svg("title", {});
      label.textContent = short(text);
      title.textContent = `${visible(text)}: ${logprob.toFixed(2)} nats, ${fate}`;
      label.append(title);
      labels.push(label);
    });
    view.append(...labels);
    const box = sideways(this.word("tree"), view);
    box.classList.add("tree");
    return box;
  }

  // All settings, branches too, as a link to this page and as JSON.
  link() {
    const { settings } = this._data, branches = this.branches.map(({ strategy, begins }) => ({ strategy, begins }));
    const json = JSON.stringify({ ...settings, columns: [...settings.columns, ...branches] });
    const address = `${location.origin}${location.pathname}?decoding=${encodeURIComponent(json)}`;
    const input = make("input", { readonly: "", value: address, "aria-label": this.word("link"), "data-link": "" });
    const area = make("textarea", { readonly: "", "aria-label": "JSON", "data-json": "" }, json);
    const copy = this.button(this.word("copy"), () => {
      input.select();
      if (navigator.clipboard) navigator.clipboard.writeText(address).then(() => { copy.textContent = this.word("copied"); }, () => {});
    });
    return make("details", { class: "link", "data-open": "link" }, make("summary", {}, this.word("link")), make("div", { class: "pair" }, input, copy), area);
  }
}

customElements.define("labkit-texts", LabkitTexts);

// <labkit-table>: rows of numbers under heads that are known by a key, and a sentence made of what was measured.
// data = {heads: [keys], rows: [[texts]], note: text, or [key of NOTES, its values], or null}

const HEADS = chinese ? {
  "layer.head": "层.头", previous: "前一个词元", induction: "归纳", pronoun: "从代词", answer: "从回答",
  "ablation effect": "消融后下降的对数几率", strategy: "策略", "nats per token": "对数概率", repetition: "重复", tokens: "词元数", "distinct-2": "distinct-2",
  "self-BLEU": "self-BLEU", grammatical: "合语法", consistent: "可能发生", gold: "真实得分", right: "正确", supported: "有依据",
} : {
  "layer.head": "layer.head", previous: "previous token", induction: "induction", pronoun: "from the pronoun", answer: "from the answer",
  "ablation effect": "log-odds lost when ablated", "nats per token": "log-probability", gold: "gold score", consistent: "possible events",
};
const percent = (x) => `${Math.round(100 * x)} %`;
const WHERE = chinese ? { "everyday English": "日常英语", TinyWorld: "TinyWorld" } : {};
const places = (sets) => sets.map(({ where, right, error, count }) => chinese
  ? `${WHERE[where] || where} 的 ${count} 篇中 ${percent(right)}（± ${percent(error)}）`
  : `in ${where} ${percent(right)} (± ${percent(error)}, ${count} texts)`);

const NOTES = {
  about: ({ stage, sets, tired, high }) => (chinese
    ? `阶段 ${stage} 的模型正确判断“it”所指的比例：${places(sets).join("；")}；随机为 50 %。在“too”之前，把“tired”换成“high”不会改变任何东西：因果模型读到“it”时还看不到后文。读完句子再问，“horse”对“wall”的对数几率为 ${signed(tired)} 纳特，换成“high”后为 ${signed(high)}。`
    : `The model after the stage ${stage} resolves “it” correctly ${places(sets).join(" and ")}; chance is 50 %. Up to “too”, nothing changes when “tired” becomes “high”: a causal model reads “it” before that word. Asked after the sentence, its log-odds of “horse” over “wall” are ${signed(tired)} nats, and ${signed(high)} with “high”.`),
  heads: ({ where, right, error, odds, count, stage }) => (chinese
    ? `阶段 ${stage}，${WHERE[where] || where} 的 ${count} 篇文本：正确判断“it”所指的占 ${percent(right)}（± ${percent(error)}；随机为 50 %），平均对数几率 ${signed(odds)} 纳特。`
    : `Stage ${stage}, ${count} texts of ${where}: “it” is resolved correctly in ${percent(right)} (± ${percent(error)}; chance is 50 %), with log-odds of ${signed(odds)} nats.`),
  scoring: ({ done, total }) => (chinese ? `已生成 ${done} / ${total} 篇文本…` : `${done} of ${total} ${total === 1 ? "text" : "texts"} generated …`),
  stopped: () => (chinese ? "已停止。" : "Stopped."),
  patched: ({ answers: [a, b], odds, alone, example }) => {
    const each = alone.map(([place, piece, x]) => (chinese ? `第 ${place} 个词元 ${quoted(piece)} 恢复 ${percent(x)}` : `${quoted(piece)} (token ${place}) brings back ${percent(x)}`));
    const [story, asked] = example && alone.length === 2 ? alone.map(([, , x]) => x) : [0, 0];
    const meaning = asked > story + 0.1
      ? (chinese ? "因此这里的答案主要取决于问题里的词，而不是“it”处的原因。" : "So here the answer rests on the word in the question more than on the reason given at “it”.")
      : story > asked + 0.1 ? (chinese ? "因此这里的答案主要取决于“it”处的原因。" : "So here the answer rests on the reason given at “it” more than on the word in the question.") : "";
    return chinese
      ? `1 = 完全变回第一个提示的答案，0 = 没有变化。${quoted(a)} 对 ${quoted(b)} 的对数几率：第一个提示中 ${signed(odds[0])} 纳特，第二个中 ${signed(odds[1])}。只换不同的词（嵌入）：${each.join("；")}。${meaning}`
      : `1 = the first prompt's answer is fully back, 0 = nothing changed. Log-odds of ${quoted(a)} over ${quoted(b)}: ${signed(odds[0])} nats in the first prompt, ${signed(odds[1])} in the second. Patching in only a word that differs (embedding): ${each.join("; ")}. ${meaning}`;
  },
};
const sentence = (note) => (Array.isArray(note) ? NOTES[note[0]](note[1]) : note || "");

const TABLE_STYLE = `
  :host { font: 13px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; --line: rgba(128, 128, 128, .35); }
  table { border-collapse: collapse; width: 100%; }
  td, th { padding: 3px 10px 3px 0; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400; vertical-align: bottom;
    font-variant-numeric: tabular-nums; min-width: 3.5em; }
  thead th { opacity: .8; max-width: 8.5em; }
  td:first-child, th:first-child { text-align: left; min-width: 6em; overflow-wrap: anywhere; }
  p { margin: 0 0 8px; overflow-wrap: anywhere; }
`;

class LabkitTable extends Viewer {
  set data(data) { this._data = data; this.render(); }

  get data() { return this._data; }

  render() {
    this.shadowRoot.replaceChildren(make("style", {}, COMMON_STYLE + TABLE_STYLE));
    if (!this._data) return;
    const { heads = [], rows = [], note } = this._data;
    const status = make("p", { role: "status" }, sentence(note));
    if (note) this.shadowRoot.append(status);
    if (!rows.length) return;
    const head = make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, HEADS[name] || name)));
    const body = rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))));
    this.shadowRoot.append(sideways(sentence(note) || heads.join(", "), make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
  }
}

customElements.define("labkit-table", LabkitTable);

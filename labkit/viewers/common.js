// What the viewers share. They are custom elements that show what labkit measured: no framework, no network, and every
// text is set as text, never as markup. The app (gr.HTML) and notebooks (anywidget) both hand a viewer its `data`, and a
// function `ask` for what it wants to know later; see labkit/viewers/adapters.py.

// The app's words are in words.py; these are the viewers' own, and notebooks see them too.
const chinese = navigator.language.toLowerCase().startsWith("zh");

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
const quoted = (token) => `“${visible(token).trim() || visible(token)}”`;
const share = (x) => `${(100 * x).toFixed(x < 0.1 ? 1 : 0)} %`; // every percentage is written by this
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;

// Of several things the Tab key stops at one; the arrow keys, Home and End go from one to the next.
const roving = (nodes, start = 0, [back, on] = ["ArrowLeft", "ArrowRight"]) => nodes.forEach((node, i) => {
  node.tabIndex = i === Math.min(start, nodes.length - 1) ? 0 : -1;
  node.addEventListener("focus", () => nodes.forEach((other) => { other.tabIndex = other === node ? 0 : -1; }));
  node.addEventListener("keydown", (event) => {
    const next = { [back]: i - 1, [on]: i + 1, Home: 0, End: nodes.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (nodes[next]) nodes[next].focus();
  });
});

// What may be wider than the page: it scrolls by itself, fades where there is more, and says so with an arrow.
const sideways = (label, ...children) => {
  const inner = make("div", { class: "inner", role: "group", "aria-label": label }, ...children);
  const box = make("div", { class: "sideways" }, inner);
  const tell = () => {
    const over = inner.scrollWidth - inner.clientWidth;
    box.classList.toggle("more-left", inner.scrollLeft > 2);
    box.classList.toggle("more-right", over - inner.scrollLeft > 2);
    if (over > 2) inner.tabIndex = 0; else inner.removeAttribute("tabindex");
  };
  inner.addEventListener("scroll", tell, { passive: true });
  const sizes = new ResizeObserver(tell);
  [inner, ...inner.children].forEach((node) => sizes.observe(node));
  return box;
};

const COMMON_STYLE = `
  :host { display: block; color: inherit; container-type: inline-size; --problem: #b00020; }
  :host(.dark) { --problem: #ff8a80; }
  .sideways { position: relative; max-width: 100%; min-width: 0; }
  .sideways > .inner { overflow-x: auto; }
  .sideways.more-right > .inner { mask-image: linear-gradient(to left, transparent, #000 36px); }
  .sideways.more-left > .inner { mask-image: linear-gradient(to right, transparent, #000 36px); }
  .sideways.more-left.more-right > .inner { mask-image: linear-gradient(to right, transparent, #000 36px, #000 calc(100% - 36px), transparent); }
  .sideways.more-right::after, .sideways.more-left::before { position: absolute; top: 2px; z-index: 2; font-size: 13px; line-height: 18px;
    padding: 0 7px; border-radius: 9px; background: #0072b2; color: white; pointer-events: none; }
  .sideways.more-right::after { content: "→"; right: 0; }
  .sideways.more-left::before { content: "←"; left: 0; }
  .inner:focus-visible { outline: 3px solid #e69f00; outline-offset: -3px; }
  .notice { margin: 0 0 8px; padding: 4px 10px; border-left: 3px solid #e69f00; background: rgba(230, 159, 0, .12); }
  .notice[hidden] { display: none; }
  .problem { color: var(--problem); font-weight: 600; }
`;

const WAITING = chinese ? {
  server: "正在等待：先回答其他人的请求。", busy: "内核正忙：单元格运行完后就会回答。",
  gone: "需要运行中的内核。", unknown: "还没有回答：内核正忙，或没有运行。", forgotten: "内核已不认识此视图：请重新运行它的单元格。",
  nobody: "没有回答：页面已断开。",
} : {
  server: "Waiting: other requests are answered first.", busy: "The kernel is busy: the answer comes when its cells are done.",
  gone: "This needs the running kernel.", unknown: "No answer yet: the kernel is busy, or not running.",
  forgotten: "The kernel no longer knows this viewer: run its cell again.", nobody: "No answer: the page is not connected.",
};

// A viewer of `data`, drawn anew when the page changes between light and dark. notice: what it is waiting for.
class Viewer extends HTMLElement {
  constructor() {
    super();
    this.attachShadow({ mode: "open" });
    this.dark = false;
  }

  connectedCallback() {
    this.watch = new MutationObserver(() => this.theme());
    for (const node of [document.documentElement, document.body]) this.watch.observe(node, { attributes: true });
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.themed = () => this.theme();
    this.scheme.addEventListener("change", this.themed);
    this.theme();
  }

  disconnectedCallback() {
    this.watch.disconnect();
    this.scheme.removeEventListener("change", this.themed);
  }

  get waiting() { return WAITING; }

  // Light words stand on a dark page.
  theme() {
    const [r, g, b] = (getComputedStyle(this).color.match(/[\d.]+/g) || [0, 0, 0]).map(Number);
    const dark = 0.3 * r + 0.6 * g + 0.1 * b > 140;
    if (dark === this.dark) return;
    this.dark = dark;
    this.classList.toggle("dark", dark);
    this.render();
  }

  // A colour as it can be seen on this page.
  shade(colour) { return this.dark ? colour.map((x) => Math.round(x + 0.5 * (255 - x))) : colour; }

  set notice(text) {
    this.noticed = text;
    const line = this.shadowRoot.querySelector(".notice");
    if (line) { line.textContent = text; line.hidden = !text; }
  }

  noticeLine() {
    const line = make("p", { class: "notice", role: "status" }, this.noticed || "");
    line.hidden = !this.noticed;
    return line;
  }
}

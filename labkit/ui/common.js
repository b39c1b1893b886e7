// What the viewers share. They are custom elements that show what labkit measured: no framework, no network, and every
// text is set as text, never as markup. The app (gr.HTML) and notebooks (anywidget) both hand a viewer its `data`, and a
// function `ask` for what it wants to know later; see labkit/ui/viewers.py.

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
const whole = (byte) => `${Math.round((100 * byte) / 255)} %`; // of weights that came as bytes
const share = (x) => `${(100 * x).toFixed(x < 0.1 ? 1 : 0)} %`;

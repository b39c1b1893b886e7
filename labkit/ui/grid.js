// <labkit-grid>: numbers in rows and columns, each with its colour; what is 0 is white, what is high blue, what is below
// orange. data = {rows: [labels], columns: [labels], values: [[numbers]], note: text}

const GRID_STYLE = `
  :host { display: block; color: inherit; font: 13px/1.3 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
  .scroll { overflow-x: auto; }
  table { border-collapse: separate; border-spacing: 1px; }
  th { font-weight: 400; text-align: right; padding: 2px 6px; white-space: pre; }
  thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 6px 2px;
    font-family: ui-monospace, Menlo, Consolas, monospace; }
  td { min-width: 30px; height: 24px; text-align: center; font-variant-numeric: tabular-nums; font-size: 11px; border-radius: 2px; }
  p { margin: 6px 0 0; overflow-wrap: anywhere; white-space: pre-wrap; }
`;

class LabkitGrid extends HTMLElement {
  constructor() { super(); this.attachShadow({ mode: "open" }); }

  set data(data) {
    this._data = data;
    this.shadowRoot.replaceChildren(make("style", {}, GRID_STYLE));
    if (!data) return;
    const head = make("tr", {}, make("td", {}), ...data.columns.map((label) => make("th", { scope: "col" }, visible(label))));
    const body = data.values.map((row, i) => make("tr", {}, make("th", { scope: "row" }, data.rows[i]), ...row.map((value) => {
      const cell = make("td", {}, Math.abs(value) < 0.005 ? "" : value.toFixed(2)), strength = Math.min(1, Math.abs(value));
      cell.style.background = `rgba(${value < 0 ? "213, 94, 0" : "0, 114, 178"}, ${strength})`;
      cell.style.color = strength > 0.6 ? "white" : "inherit";
      return cell;
    })));
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
    this.shadowRoot.append(make("div", { class: "scroll" }, table), make("p", {}, data.note || ""));
  }

  get data() { return this._data; }
}

customElements.define("labkit-grid", LabkitGrid);

// <labkit-grid>: numbers in rows and columns, each with its colour; what is 0 is white, what is high blue, what is below
// orange. data = {rows: [labels, or "embedding" and numbers of layers], columns: [labels], values: [[numbers]], note: as
// of <labkit-table>}

const GRID_STYLE = `
  :host { font: 13px/1.3 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
  table { border-collapse: separate; border-spacing: 1px; }
  th { font-weight: 400; text-align: right; padding: 2px 6px; white-space: pre; }
  thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 6px 2px;
    font-family: ui-monospace, Menlo, Consolas, monospace; }
  td { min-width: 30px; height: 24px; text-align: center; font-variant-numeric: tabular-nums; font-size: 11px; border-radius: 2px; }
  p { margin: 6px 0 0; overflow-wrap: anywhere; white-space: pre-wrap; }
`;
const rowName = (label) => {
  if (label === "embedding") return chinese ? "嵌入" : label;
  return /^\d+$/.test(label) ? `${chinese ? "第" : "layer"} ${label}${chinese ? " 层" : ""}` : label;
};

class LabkitGrid extends Viewer {
  set data(data) { this._data = data; this.render(); }

  get data() { return this._data; }

  render() {
    const data = this._data;
    this.shadowRoot.replaceChildren(make("style", {}, COMMON_STYLE + GRID_STYLE));
    if (!data) return;
    const head = make("tr", {}, make("td", {}), ...data.columns.map((label) => make("th", { scope: "col" }, visible(label))));
    const body = data.values.map((row, i) => make("tr", {}, make("th", { scope: "row" }, rowName(data.rows[i])), ...row.map((value) => {
      const cell = make("td", {}, Math.abs(value) < 0.005 ? "" : value.toFixed(2)), strength = Math.min(1, Math.abs(value));
      cell.style.background = `rgba(${value < 0 ? "213, 94, 0" : "0, 114, 178"}, ${strength})`;
      cell.style.color = strength > 0.6 ? "white" : "inherit";
      return cell;
    })));
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)), note = sentence(data.note);
    this.shadowRoot.append(sideways(note, table), make("p", {}, note));
  }
}

customElements.define("labkit-grid", LabkitGrid);

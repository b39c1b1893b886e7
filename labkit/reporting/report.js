// Draws each figure of the page in the colours of its style sheet, again whenever light turns to dark.
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), card = style.getPropertyValue("--card").trim();
  const line = style.getPropertyValue("--line").trim();
  return {"font.color": ink, "hoverlabel.bgcolor": card, "hoverlabel.font.color": ink, "hoverlabel.bordercolor": line};
}

async function draw(place) {
  const {data, layout} = figures[place.dataset.figure];
  await Plotly.newPlot(place, data, layout, {responsive: true, displaylogo: false, displayModeBar: false});
  await Plotly.relayout(place, colours());
}

for (const place of document.querySelectorAll("[data-figure]")) {
  draw(place);
  dark.addEventListener("change", () => Plotly.relayout(place, colours()));
}

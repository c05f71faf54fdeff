"use strict";
// Charts: point or touch to read a step, drag to zoom, double-click or Escape for the whole; arrow keys, + and -.
// A drawing is 1000 x 1000, upside down as SVG is; `axis` says which numbers that is.
const SIZE = 1000, RANGES = {};
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const short = value => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
};
const ticks = (low, high, isLog) => {
  if (isLog && high / low > 20) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) found.push(10 ** power);
    return found.filter(value => value >= low && value <= high);
  }
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find(factor => power * factor >= raw * 0.999);
  const found = [];
  for (let place = Math.ceil(low / step); place * step <= high * (1 + 1e-9); place++) found.push(place * step);
  return found;
};

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.plot = figure.querySelector(".plot");
    this.svg = figure.querySelector("svg");
    this.read = figure.querySelector(".read");
    Object.assign(this, JSON.parse(figure.querySelector("script").textContent));
    this.steps = [...new Set(this.series.flatMap(one => one.points.map(point => point[0])))].sort((a, b) => a - b);
    this.view = RANGES[figure.id] ?? [0, 0, SIZE, SIZE];
    this.listen();
    this.show();
  }
  x(step) { return (step - this.axis.x[0]) / (this.axis.x[1] - this.axis.x[0] || 1) * SIZE; }
  y(value) {
    const scale = this.axis.log ? Math.log10 : number => number, [low, high] = this.axis.y.map(scale);
    return SIZE - (scale(value) - low) / (high - low || 1) * SIZE;
  }
  stepAt(x) { return this.axis.x[0] + x / SIZE * (this.axis.x[1] - this.axis.x[0]); }
  valueAt(y) {
    const part = (SIZE - y) / SIZE, [low, high] = this.axis.y;
    return this.axis.log ? low * (high / low) ** part : low + part * (high - low);
  }
  listen() {
    let from = null;
    const place = event => {
      const box = this.svg.getBoundingClientRect();
      return this.view[0] + clamp((event.clientX - box.left) / box.width, 0, 1) * this.view[2];
    };
    this.svg.addEventListener("pointerdown", event => { from = place(event); });
    this.svg.addEventListener("pointermove", event => {
      this.point(this.stepAt(place(event)));
      if (from !== null) this.range(from, place(event));
    });
    this.svg.addEventListener("pointerup", event => {
      const to = place(event);
      if (from !== null && Math.abs(to - from) > this.view[2] / 50) this.zoom(Math.min(from, to), Math.max(from, to));
      from = null;
      this.range(0, 0);
    });
    this.svg.addEventListener("pointerleave", () => { from = null; this.range(0, 0); this.point(null); });
    this.svg.addEventListener("dblclick", () => this.zoom(0, SIZE));
    this.svg.addEventListener("keydown", event => {
      const at = this.steps.indexOf(this.at ?? this.steps[0]), middle = this.x(this.steps[at]), half = this.view[2] / 4;
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) this.point(this.steps[clamp(at + move, 0, this.steps.length - 1)]);
      else if (event.key === "+") this.zoom(clamp(middle - half, 0, SIZE), clamp(middle + half, 0, SIZE));
      else if (event.key === "-" || event.key === "Escape") this.zoom(0, SIZE);
      else return;
      event.preventDefault();
    });
  }
  range(from, to) {
    const shade = this.svg.querySelector(".range");
    shade.setAttribute("x", Math.min(from, to));
    shade.setAttribute("width", Math.abs(to - from));
  }
  point(step) {
    const cursor = this.svg.querySelector(".cursor");
    cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step === null) { this.at = undefined; this.read.textContent = this.hint; return; }
    const nearest = (steps, to) => steps.reduce((best, one) => Math.abs(one - to) < Math.abs(best - to) ? one : best);
    this.at = nearest(this.steps, step);
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, this.x(this.at));
    const told = this.series.map(one => {
      const at = nearest(one.points.map(point => point[0]), this.at), value = one.points.find(point => point[0] === at)[1];
      const unit = this.unit ? ` ${this.unit}` : "", place = at === this.at ? "" : ` (${this.axis.name} ${at})`;
      return `${one.name} ${short(value)}${unit}${place}`;
    });
    this.read.textContent = `${this.axis.name} ${this.at.toLocaleString("en")}: ${told.join(", ")}`;
  }
  zoom(from, to) {
    const seen = this.series.flatMap(one => one.points).filter(([step]) => this.x(step) >= from && this.x(step) <= to);
    if (!seen.length || to - from < 1e-6) return;
    const ys = seen.map(point => this.y(point[1])), room = Math.max((Math.max(...ys) - Math.min(...ys)) * 0.06, 1);
    const isWhole = from <= 0 && to >= SIZE;
    const top = isWhole ? 0 : Math.min(...ys) - room, bottom = isWhole ? SIZE : Math.max(...ys) + room;
    this.view = [from, top, to - from, bottom - top];
    RANGES[this.figure.id] = isWhole ? undefined : this.view;
    this.show();
  }
  show() {
    const [left, top, width, height] = this.view;
    this.hint = RANGES[this.figure.id] ? "zoomed in; double-click for the whole" : "";
    this.read.textContent = this.hint;
    if (!RANGES[this.figure.id] && !this.svg.dataset.moved) return;
    this.svg.dataset.moved = "1";
    this.svg.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
    const lines = [];
    const across = ticks(this.stepAt(left), this.stepAt(left + width), false);
    const up = ticks(this.valueAt(top + height), this.valueAt(top), this.axis.log);
    this.plot.querySelector(".xs").innerHTML = across
      .map(step => `<span style="left:${(this.x(step) - left) / width * 100}%">${short(step)}</span>`).join("");
    this.plot.querySelector(".ys").innerHTML = up.map(value => {
      const y = this.y(value);
      lines.push(`<line class="grid" x1="0" x2="${SIZE}" y1="${y}" y2="${y}"/>`);
      return `<span style="bottom:${(top + height - y) / height * 100}%">${short(value)}</span>`;
    }).join("");
    this.svg.querySelector(".grids").innerHTML = lines.join("");
  }
}

const draw = () => document.querySelectorAll("figure[id]").forEach(figure => new Chart(figure));
draw();

// Of a run that is at work (`sft watch`): the page asks for itself again, and keeps what was opened and zoomed; not
// while somebody points at a chart or selects a text.
const seconds = Number(document.body.dataset.live);
let tag = null;
const renew = async () => {
  const isRead = document.querySelector("figure:hover") || !getSelection().isCollapsed;
  try {
    const known = tag ? { "If-None-Match": tag } : {};
    const answer = isRead ? null : await fetch(location.href, { headers: known, cache: "no-store" });
    if (answer?.status === 200) {
      tag = answer.headers.get("ETag");
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const open = new Map([...document.querySelectorAll("details[id]")].map(one => [one.id, one.open]));
      fresh.querySelectorAll("details[id]").forEach(one => { one.open = open.get(one.id) ?? one.open; });
      document.querySelector("main").replaceWith(fresh.querySelector("main"));
      document.title = fresh.title;
      draw();
    }
    document.body.classList.remove("lost");
  } catch { document.body.classList.add("lost"); }
  setTimeout(renew, seconds * 1000);
};
if (seconds) setTimeout(renew, seconds * 1000);

let shut = [];
addEventListener("beforeprint", () => {
  shut = [...document.querySelectorAll("details:not([open]):not(.long)")];
  shut.forEach(one => { one.open = true; });
});
addEventListener("afterprint", () => shut.forEach(one => { one.open = false; }));

// Predicted norm of a training recipe, drawn over public tokens; no library, no request.
// n²(T) = n0² exp(-2 lr wd T) + d lr² (1 - exp(-2 lr wd T)) / (2 lr wd)
(function (root, data) {
  const SVG = "http://www.w3.org/2000/svg";
  const box = { left: 52, right: 640, top: 24, bottom: 300 };
  const range = { x: [10, 3e5], y: [0.2, 120] };
  const svg = root.querySelector("svg");
  const text = root.querySelector("output");
  const field = (name) => Number(root.querySelector(`[name=${name}]`).value);

  function scale([low, high], [from, to]) {
    const size = Math.log(high / low);
    return {
      place: (value) => from + ((to - from) * Math.log(value / low)) / size,
      value: (place) => low * Math.exp(((place - from) / (to - from)) * size),
    };
  }
  const x = scale(range.x, [box.left, box.right]);
  const y = scale(range.y, [box.bottom, box.top]);

  function add(name, attributes, parent = svg) {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    return parent.appendChild(made);
  }
  function label(content, attributes) {
    add("text", { "font-size": 12, fill: "#333", ...attributes }).textContent = content;
  }
  function norm(steps, width, rate, decay) {
    const start = data.start[width] || 0;
    const lost = 2 * rate * decay * steps;
    const grown = width * rate * rate * steps * (lost > 1e-9 ? -Math.expm1(-lost) / lost : 1);
    return Math.sqrt(start * start * Math.exp(-lost) + grown);
  }

  for (const tick of [10, 100, 1000, 10000, 100000]) {
    const at = x.place(tick);
    add("line", { x1: at, x2: at, y1: box.top, y2: box.bottom, stroke: "#eee" });
    label(tick.toLocaleString("en"), { x: at, y: box.bottom + 16, "text-anchor": "middle" });
  }
  for (const tick of [0.5, 1, 2, 5, 10, 20, 50, 100]) {
    const at = y.place(tick);
    add("line", { x1: box.left, x2: box.right, y1: at, y2: at, stroke: "#eee" });
    label(tick, { x: box.left - 6, y: at + 4, "text-anchor": "end" });
  }
  label("training step", { x: (box.left + box.right) / 2, y: box.bottom + 34, "text-anchor": "middle" });
  label("norm", { x: box.left - 6, y: 12, "text-anchor": "end" });
  const cloud = add("g", {});
  const law = add("path", { fill: "none", stroke: "#000", "stroke-width": 2 });
  const cursor = add("line", { y1: box.top, y2: box.bottom, stroke: "#E69F00" });
  const dot = add("circle", { r: 5, fill: "#E69F00" });
  let steps = field("steps");

  function draw() {
    const [width, rate, decay] = [field("width"), field("rate"), field("decay")];
    if (!(rate > 0) || !(decay >= 0) || !(steps > 0)) {
      text.textContent = "Give a rate and steps above 0 and a decay of at least 0.";
      return;
    }
    const shown = data.points.filter((point) => point[2] === width);
    cloud.replaceChildren();
    for (const [step, length] of shown) {
      add("circle", { cx: x.place(step), cy: y.place(length), r: 3, fill: "#7f7f7f", "fill-opacity": 0.5 }, cloud);
    }
    let way = "";
    for (let at = box.left; at <= box.right; at += 4) {
      way += `${way ? "L" : "M"}${at},${y.place(norm(x.value(at), width, rate, decay))}`;
    }
    law.setAttribute("d", way);
    const predicted = norm(steps, width, rate, decay);
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x.place(steps));
    dot.setAttribute("cx", x.place(steps));
    dot.setAttribute("cy", y.place(predicted));
    const all = data.norms[width] || [];
    const below = all.filter((length) => length < predicted).length;
    const ceiling = decay > 0 ? Math.sqrt((width * rate) / (2 * decay)).toPrecision(3) : "none";
    text.textContent =
      `${steps.toLocaleString("en")} steps: norm ${predicted.toPrecision(3)}, ceiling ${ceiling}. ` +
      (all.length ? `${Math.round((100 * below) / all.length)} % of ${all.length} public runs of this width are shorter.` : "");
  }
  function choose(value) {
    steps = Math.max(1, Math.round(Number(value.toPrecision(2))));
    root.querySelector("[name=steps]").value = steps;
    draw();
  }
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const at = ((event.clientX - frame.left) / frame.width) * svg.viewBox.baseVal.width;
    choose(x.value(Math.min(Math.max(at, box.left), box.right)));
  });
  root.addEventListener("input", () => {
    steps = Math.min(Math.max(field("steps"), range.x[0]), range.x[1]);
    draw();
  });
  draw();
})

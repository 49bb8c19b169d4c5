// Filters of the scoreboard, interactive figures and definitions by pointing. No request is made.
(() => {
  "use strict";

  const make = (tag, properties = {}, children = []) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in node && !name.startsWith("aria")) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };

  // ---- Scoreboard -------------------------------------------------------------------------------

  function openTarget() {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    if (target && target.matches("details.claim")) {
      target.open = true;
      target.scrollIntoView();
      target.querySelector("summary").focus({ preventScroll: true });
    }
  }

  function startScoreboard(board) {
    const form = board.querySelector(".filters");
    const claims = [...board.querySelectorAll("details.claim")];
    const selects = [...form.querySelectorAll("select")];
    const filter = () => {
      let shown = 0;
      for (const claim of claims) {
        claim.hidden = selects.some((s) => s.value && claim.dataset[s.name] !== s.value);
        shown += !claim.hidden;
      }
      for (const section of board.querySelectorAll("section.source")) {
        section.hidden = !section.querySelector("details.claim:not([hidden])");
      }
      form.querySelector("output").textContent = `${shown} of ${claims.length} claims`;
    };
    form.addEventListener("change", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    filter();
    openTarget();
    window.addEventListener("hashchange", openTarget);
  }

  // ---- Interactive figures ----------------------------------------------------------------------

  const loaded = (url) => new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error("an atlas is damaged"));
    image.src = url;
  });

  function view(label, [height, width]) {
    const canvas = make("canvas", { width, height, role: "img", "aria-label": label });
    return { label, canvas, node: make("div", { className: "view" }, [canvas, make("div", { textContent: label })]) };
  }

  function slider(name, count, change) {
    const input = make("input", { type: "range", min: 0, max: count - 1, step: 1, value: 0 });
    const shown = make("output");
    input.addEventListener("input", change);
    return { input, shown, node: make("label", {}, [name, input, shown]) };
  }

  async function startSeries(root, about) {
    const atlas = await loaded(about.atlas);
    const [height, width] = about.size;
    const views = about.rows.map((row) => view(row, about.size));
    const draw = () => {
      const at = Number(move.input.value);
      const place = about.places[at];
      move.shown.textContent = place;
      move.input.setAttribute("aria-valuetext", `${about.quantity} ${place}`);
      views.forEach(({ canvas, label }, row) => {
        canvas.getContext("2d").drawImage(atlas, at * width, row * height, width, height, 0, 0, width, height);
        canvas.setAttribute("aria-label", `${label}, ${about.quantity} ${place}`);
        canvas.dataset.place = place;
      });
    };
    const move = slider(about.quantity, about.places.length, draw);
    root.append(move.node, make("div", { className: "views" }, views.map((v) => v.node)));
    draw();
  }

  function levels(atlas) {
    const canvas = make("canvas", { width: atlas.width, height: atlas.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(atlas, 0, 0);
    return (x, y, size) => context.getImageData(x, y, size, size).data;
  }

  async function startMaps(root, about) {
    const [pictures, atlas] = await Promise.all([loaded(about.pictures), loaded(about.maps)]);
    const read = levels(atlas);
    const [height, width] = about.size;
    const scale = 4;
    const views = about.arms.map((arm) => view(arm, [height * scale, width * scale]));
    const steps = about.shares[0].length;
    let word = Math.min(2, about.pieces[0].length - 1);
    const said = make("p", { "aria-live": "polite" });

    const overlay = (arm, step) => {
      const size = about.mapSize;
      const data = read(word * size, (arm * steps + step) * size, size);
      const small = make("canvas", { width: size, height: size });
      const image = new ImageData(size, size);
      for (let i = 0; i < size * size; i += 1) {
        image.data.set([255, 210, 60, Math.round(0.9 * data[4 * i])], 4 * i);
      }
      small.getContext("2d").putImageData(image, 0, 0);
      return small;
    };
    const draw = () => {
      const step = Number(move.input.value);
      const name = `${about.steps[step]} of ${about.total}`;
      move.shown.textContent = name;
      move.input.setAttribute("aria-valuetext", `step ${name}`);
      views.forEach(({ canvas, label }, arm) => {
        const context = canvas.getContext("2d");
        context.imageSmoothingEnabled = false;
        context.filter = "grayscale(1) brightness(0.4)";
        context.drawImage(pictures, 0, arm * height, width, height, 0, 0, canvas.width, canvas.height);
        context.filter = "none";
        context.imageSmoothingEnabled = true;
        context.drawImage(overlay(arm, step), 0, 0, canvas.width, canvas.height);
        canvas.setAttribute("aria-label", `${label}: map of ${about.pieces[arm][word]} in step ${name}`);
        canvas.dataset.word = about.pieces[arm][word];
      });
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === word)));
      said.textContent = about.arms.map((arm, i) => {
        const share = 100 * about.shares[i][step][word];
        return `${arm}: ${about.pieces[i][word]} gets ${share.toFixed(1)} % of the attention`;
      }).join("; ");
    };
    const buttons = about.pieces[0].map((piece, i) => {
      const names = [...new Set(about.pieces.map((row) => row[i]))];
      const button = make("button", { type: "button", textContent: names.join(" / ") });
      const choose = () => { word = i; draw(); };
      for (const event of ["pointerenter", "focus", "click"]) button.addEventListener(event, choose);
      return button;
    });
    const move = slider("step", steps, draw);
    const words = make("div", { className: "words", role: "group", "aria-label": "words of the prompt" }, buttons);
    const note = `The colour is the share of attention on a logarithmic scale from ${about.floor} to 1.`;
    root.append(words, move.node, make("div", { className: "views" }, views.map((v) => v.node)), said, make("p", { textContent: note }));
    draw();
  }

  function startInteractive(root) {
    const about = JSON.parse(root.querySelector("script").textContent);
    root.append(make("p", { className: "interactive-label", textContent: about.label }));
    const start = { series: startSeries, maps: startMaps }[about.kind];
    start(root, about).then(() => { root.hidden = false; });
  }

  // ---- Definitions ------------------------------------------------------------------------------

  function startTerms(links) {
    const tip = make("div", { className: "term-tip", id: "term-tip", role: "tooltip", hidden: true });
    document.body.append(tip);
    const hide = () => { tip.hidden = true; };
    for (const link of links) {
      link.setAttribute("aria-describedby", "term-tip");
      const show = () => {
        tip.textContent = link.dataset.definition;
        tip.hidden = false;
        const box = link.getBoundingClientRect();
        const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
        tip.style.left = `${Math.max(4, left) + window.scrollX}px`;
        tip.style.top = `${box.bottom + window.scrollY + 4}px`;
      };
      link.addEventListener("pointerenter", show);
      link.addEventListener("focus", show);
      link.addEventListener("pointerleave", hide);
      link.addEventListener("blur", hide);
    }
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  }

  // A list whose items have another role is none to a screen reader.
  function mendLists() {
    for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");
  }

  // The theme names buttons by labels that leave out the text they show; speech input needs both.
  function nameButtons() {
    for (const node of document.querySelectorAll(".search-button__button, summary[aria-label]")) {
      if (node.textContent.trim()) node.removeAttribute("aria-label");
    }
    for (const node of document.querySelectorAll(".theme-switch-button")) {
      node.setAttribute("aria-label", "Color mode: Light, Dark, System Settings");
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    nameButtons();
    mendLists();
    document.querySelectorAll(".scoreboard").forEach(startScoreboard);
    document.querySelectorAll(".interactive").forEach(startInteractive);
    const links = document.querySelectorAll("a.term-link");
    if (links.length) startTerms(links);
  });
})();

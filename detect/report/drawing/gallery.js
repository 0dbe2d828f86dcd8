// The images: filters, a threshold, pages of thumbnails, one image at full size.
const box = document.getElementById("gallery");
const source = document.getElementById("images-data");
if (box && source) startGallery(box, JSON.parse(source.textContent));

function startGallery(box, data) {
  const PAGE = 24;
  const svgSpace = "http://www.w3.org/2000/svg";
  const runs = data.runs, several = runs.length > 1, stride = 6 + runs.length;
  const [low, high] = data.range;
  const state = { view: several ? "compare" : "0", class: "", error: "", own: true, threshold: 0,
    boxes: true, labels: true, page: 0, shown: [], open: -1 };

  // ---- what is on an image at the thresholds ----
  const limit = run => state.own ? runs[run].threshold : state.threshold;
  function objectsOf(image) {
    const list = [];
    for (let i = 0; i < image.objects.length; i += stride) {
      const [label, difficult, ...rest] = image.objects.slice(i, i + stride);
      const place = rest.slice(0, 4);
      const found = rest.slice(4).map((score, run) => score >= 0 && score >= limit(run));
      list.push({ label, difficult, place, found });
    }
    return list;
  }
  function detectionsOf(image, run) {
    const list = [];
    for (let i = 0; i < image.found[run].length; i += 7) {
      const [label, kind, score, ...place] = image.found[run].slice(i, i + 7);
      if (score < limit(run)) break;  // they fall
      list.push({ label, kind: data.kinds[kind], score, place });
    }
    return list;
  }
  const isFalse = kind => kind !== "hit" && kind !== "ignored";
  function counts(image, run) {
    const objects = objectsOf(image).filter(o => !o.difficult);
    const shown = detectionsOf(image, run);
    const wrong = shown.filter(d => isFalse(d.kind)).length;
    const cut = image.left[run] && shown.length * 7 === image.found[run].length;
    return { found: objects.filter(o => o.found[run]).length, of: objects.length,
      wrong: state.own ? image.false[run] : cut ? `${wrong}+` : wrong };
  }
  function hasError(image, run) {
    const kind = state.error;
    const objects = () => objectsOf(image).filter(o => !o.difficult
      && (state.class === "" || o.label === Number(state.class)));
    if (kind === "missed") return objects().some(o => !o.found[run]);
    if (kind === "gained") return run > 0 && objects().some(o => o.found[run] && !o.found[0]);
    if (kind === "lost") return run > 0 && objects().some(o => !o.found[run] && o.found[0]);
    return detectionsOf(image, run).some(d => (kind === "any false" ? isFalse(d.kind)
      : d.kind === kind) && (state.class === "" || d.label === Number(state.class)));
  }
  const looked = () => /^\d+$/.test(state.view) ? [Number(state.view)] : runs.map((_, i) => i);
  function isWanted(image) {
    if (state.class !== "") {
      const label = Number(state.class);
      if (!objectsOf(image).some(o => o.label === label)
        && !looked().some(run => detectionsOf(image, run).some(d => d.label === label)))
        return false;
    }
    return state.error === "" || looked().some(run => hasError(image, run));
  }

  // ---- drawing ----
  function nameOf(view) {
    if (view === "compare") return runs.length > 2 ? "who found what" : "found by whom";
    return view === "objects" ? "objects" : runs[Number(view)].label;
  }
  function outlines(image, view) {
    const objects = objectsOf(image), name = o => data.classes[o.label];
    if (view === "objects")
      return objects.map(o => [o.place, name(o), o.difficult ? "ignored" : "object"]);
    if (view === "compare") return objects.map(o => {
      const number = o.found.filter(Boolean).length;
      const kind = o.difficult ? "ignored" : number === runs.length ? "all" : number === 0 ? "none"
        : runs.length > 2 ? "some" : o.found[0] ? "first" : "second";
      return [o.place, kind === "some" ? `${name(o)} ${number}/${runs.length}` : name(o), kind];
    });
    const run = Number(view);
    const shown = detectionsOf(image, run).map(d => [d.place,
      `${data.classes[d.label]} ${(low + d.score / 10000 * (high - low)).toFixed(2)}`,
      d.kind === "hit" || d.kind === "ignored" ? d.kind : "false", d.kind]);
    return shown.concat(objects.filter(o => !o.difficult && !o.found[run])
      .map(o => [o.place, name(o), "missed"]));
  }
  const ORDER = ["first", "second", "some", "none", "all", "object", "hit", "false", "missed",
    "ignored"];
  function shape(name, attributes) {
    const element = document.createElementNS(svgSpace, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }
  function photo(image, view, labelled) {
    const holder = document.createElement("span");
    holder.className = "photo";
    const img = document.createElement("img");
    [img.width, img.height] = image.size;
    img.src = "data:image/webp;base64," + image.picture;
    img.alt = describe(image, view);
    holder.append(img);
    if (state.boxes) holder.append(drawing(image, view, labelled));
    return holder;
  }
  function drawing(image, view, labelled) {
    const [width, height] = image.size;
    const svg = shape("svg", { class: "boxes", viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: "none", "aria-hidden": "true" });
    const drawn = outlines(image, view).map(([p, text, kind, error]) => ({ text, kind, error,
      x: p[0] * width / 1000, y: p[1] * height / 1000,
      width: (p[2] - p[0]) * width / 1000, height: (p[3] - p[1]) * height / 1000 }));
    drawn.sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind));
    for (const { text, kind, error, ...place } of [...drawn].reverse()) {
      const rect = shape("rect", { class: kind, ...place });
      const title = shape("title", {});
      title.textContent = error && isFalse(error) ? `${text}: ${error}` : text;
      rect.append(title);
      svg.append(shape("rect", { class: "under", ...place }), rect);
    }
    if (labelled && state.labels) addLabels(svg, drawn.slice(0, data.labels), width, height);
    return svg;
  }
  function addLabels(svg, drawn, width, height) {
    const unit = Math.max(width, height) / 34, taken = [];
    for (const o of drawn) {
      const long = (o.text.length * .56 + .5) * unit, tall = 1.25 * unit;
      const spots = [];
      for (const x of [o.x, o.x + o.width - long])
        for (const y of [o.y - tall, o.y + o.height, o.y, o.y + o.height - tall])
          spots.push([Math.min(Math.max(0, x), Math.max(0, width - long)), y]);
      const spot = spots.find(([x, y]) => y >= 0 && y + tall <= height && !taken.some(
        ([a, b, c, d]) => x < c && x + long > a && y < d && y + tall > b));
      if (!spot) continue;
      const [x, y] = spot;
      taken.push([x, y, x + long, y + tall]);
      const text = shape("text", { x: x + .25 * unit, y: y + unit, "font-size": unit,
        textLength: Math.max(.1, long - .5 * unit), lengthAdjust: "spacingAndGlyphs" });
      text.textContent = o.text;
      svg.append(shape("rect", { class: `ground ${o.kind}`, x, y, width: long, height: tall }),
        text);
    }
  }
  function describe(image, view) {
    const told = runs.map((run, i) => {
      const c = counts(image, i);
      return `${run.label} ${c.found} of ${c.of} found, ${c.wrong} false`;
    });
    const shown = /^\d+$/.test(view) ? [told[Number(view)]] : told;
    return `Image ${image.id}, ${nameOf(view)}: ${shown.join("; ")}`;
  }

  function brief(image) {
    if (runs.length < 3 || state.view !== "compare")
      return describe(image, state.view).slice(`Image ${image.id}, ${nameOf(state.view)}: `.length);
    const all = runs.map((run, i) => [run.label, counts(image, i)]);
    return `of ${all[0][1].of} found: ${all.map(([label, c]) => `${label}: ${c.found}`).join("; ")}`;
  }

  // ---- controls ----
  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }
  function select(label, key, options) {
    const list = make("select", { id: `gallery-${key}` }, ...options.map(([value, text]) =>
      make("option", { value, textContent: text })));
    list.value = state[key];
    list.addEventListener("change", () => { state[key] = list.value; refresh(); });
    return make("label", {}, label, list);
  }
  function check(label, key) {
    const tick = make("input", { type: "checkbox", checked: state[key], id: `gallery-${key}` });
    tick.addEventListener("change", () => { state[key] = tick.checked; refresh(key !== "own"); });
    return make("label", {}, tick, label);
  }
  const used = new Set();
  for (const image of data.images) {
    for (let i = 0; i < image.objects.length; i += stride) used.add(image.objects[i]);
    for (const found of image.found) for (let i = 0; i < found.length; i += 7) used.add(found[i]);
  }
  const views = [...(several ? [["compare", "all runs: found by whom"]] : []),
    ...runs.map((run, i) => [String(i), run.label]), ["objects", "objects alone"]];
  const errors = [["", "all images"], ["missed", "missed object"], ["any false", "false detection"],
    ...data.kinds.filter(isFalse).filter(k => k !== "false").map(k => [k, `error: ${k}`]),
    ...(several ? [["gained", "gained object"], ["lost", "lost object"]] : [])];
  const slider = make("input", { type: "range", min: 0, max: 10000, step: 50,
    id: "gallery-threshold" });
  slider.value = runs[runs.length - 1].threshold;
  state.threshold = Number(slider.value);
  const shownThreshold = make("output", {});
  slider.addEventListener("input", () => {
    state.threshold = Number(slider.value);
    state.own = false;
    own.querySelector("input").checked = false;
    refresh(true);
  });
  const own = check("each run at its best F1", "own");
  const previous = make("button", { type: "button", textContent: "Previous" });
  const next = make("button", { type: "button", textContent: "Next" });
  const place = make("span", { role: "status" });
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  const thumbs = make("ul", { className: "thumbs" });
  box.append(
    make("div", { className: "tools" }, select("Boxes of", "view", views),
      select("Class", "class", [["", "all classes"], ...[...used].sort((a, b) => a - b)
        .map(label => [String(label), data.classes[label]])]),
      select("Show", "error", errors)),
    make("div", { className: "tools" }, make("label", {}, "Threshold", slider, shownThreshold),
      own, check("boxes", "boxes"), check("labels", "labels")),
    make("div", { className: "tools" }, previous, next, place), thumbs);

  function turn(step) {
    const pages = Math.max(1, Math.ceil(state.shown.length / PAGE));
    state.page = Math.min(pages - 1, Math.max(0, state.page + step));
    drawPage();
  }
  function refresh(samePage) {
    shownThreshold.textContent = state.own ? "best F1"
      : (low + state.threshold / 10000 * (high - low)).toFixed(2);
    state.shown = data.images.filter(isWanted);
    if (!samePage) state.page = 0;
    turn(0);
    if (dialog.open) drawOpen();
  }
  function drawPage() {
    const first = state.page * PAGE, part = state.shown.slice(first, first + PAGE);
    const number = value => value.toLocaleString("en");
    place.textContent = part.length ? `${number(first + 1)} to ${number(first + part.length)} of `
      + `${number(state.shown.length)} images` : "No image is like that.";
    previous.disabled = state.page === 0;
    next.disabled = first + PAGE >= state.shown.length;
    thumbs.replaceChildren(...part.map((image, i) => {
      const told = make("span", { className: "told" }, make("b", { textContent: image.id }), " ");
      told.append(brief(image));
      const button = make("button", { type: "button" }, photo(image, state.view, false), told);
      button.addEventListener("click", () => openAt(first + i));
      return make("li", {}, button);
    }));
  }
  thumbs.addEventListener("keydown", event => {
    const buttons = [...thumbs.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const across = Math.max(1, buttons.findIndex(b => b.offsetTop > buttons[0].offsetTop));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    if (at < 0 || !step || !buttons[at + step]) return;
    event.preventDefault();
    buttons[at + step].focus();
  });

  // ---- one image at full size ----
  const head = make("h3", {}), body = make("div", { className: "views" });
  const step = (text, by) => {
    const button = make("button", { type: "button", textContent: text });
    button.addEventListener("click", () => move(by));
    return button;
  };
  const close = make("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => dialog.close());
  const dialog = make("dialog", {},
    make("header", {}, head, step("Previous", -1), step("Next", 1), close), body,
    make("p", { className: "hint",
      textContent: "Left and right: other images. B: boxes. L: labels. Escape: back." }));
  dialog.setAttribute("aria-label", "Image at full size");
  document.body.append(dialog);
  function openAt(index) {
    state.open = index;
    drawOpen();
    dialog.showModal();
    document.documentElement.style.overflow = "hidden";
  }
  dialog.addEventListener("close", () => {
    document.documentElement.style.overflow = "";
    state.page = Math.floor(state.open / PAGE);
    turn(0);
    thumbs.querySelectorAll("button")[state.open % PAGE]?.focus();
  });
  function move(by) {
    state.open = Math.min(state.shown.length - 1, Math.max(0, state.open + by));
    drawOpen();
  }
  function drawOpen() {
    const image = state.shown[state.open];
    if (!image) return dialog.close();
    head.textContent = `${image.id} (${(state.open + 1).toLocaleString("en")} of `
      + `${state.shown.length.toLocaleString("en")})`;
    const drawn = ["objects", ...runs.map((_, i) => String(i))].map(view => make("figure", {},
      photo(image, view, true),
      make("figcaption", {}, make("b", { textContent: nameOf(view) }), ": ",
        view === "objects" ? `${image.objects.length / stride} in all`
          : describe(image, view).slice(`Image ${image.id}, ${nameOf(view)}: `.length
            + runs[Number(view)].label.length + 1))));
    body.replaceChildren(...drawn);
  }
  dialog.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const key = { b: "boxes", l: "labels" }[event.key.toLowerCase()];
    if (by) move(by);
    else if (key) {
      state[key] = !state[key];
      document.getElementById(`gallery-${key}`).checked = state[key];
      drawOpen();
    } else return;
    event.preventDefault();
  });

  box.hidden = false;
  const few = box.parentElement.querySelector(".pictures");
  few.classList.add("few-images");
  refresh();
}

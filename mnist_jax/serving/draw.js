// The page to draw on: strokes on a canvas, and the network's answer after each change.

const PEN = 34; // of the canvas's 560 pixels, as thick as MNIST's strokes if a digit fills it
const LARGEST = 20_000_000; // bytes of a photo, as in api.py
const MOST_BARS = 10;
const SPELLED = { cnn: "CNN", mlp: "MLP", mnist: "MNIST", emnist: "EMNIST", resnet: "ResNet" };

const element = (id) => document.getElementById(id);
const canvas = element("canvas"); // square
const paper = canvas.getContext("2d");

let strokes = []; // lists of points [x, y], in pixels of the canvas
let drawing = null; // the unfinished stroke
let photo = null; // a File, instead of strokes
let subject = 0; // counts the pictures, to drop answers about earlier ones
let changed = false; // the canvas, since the last request
let asking = false;
let labels = [];

// ---- Drawing

function pointOf(event) {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

// Draws a smooth curve through the midpoints.
function drawStroke(points) {
  paper.beginPath();
  paper.moveTo(...points[0]);
  for (let i = 1; i < points.length - 1; i++) {
    const [x, y] = points[i];
    const [nextX, nextY] = points[i + 1];
    paper.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  }
  paper.lineTo(...points.at(-1)); // a single point becomes a round dot
  paper.stroke();
}

const colour = (name) => getComputedStyle(document.body).getPropertyValue(name);

function fill(style) {
  paper.fillStyle = style;
  paper.fillRect(0, 0, canvas.width, canvas.height);
}

function redraw() {
  fill("white");
  paper.strokeStyle = "black";
  paper.lineWidth = PEN;
  paper.lineCap = paper.lineJoin = "round";
  strokes.forEach(drawStroke);
}

let frame = 0;
function update() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    changed = true; // here, since requests send the canvas
    if (!photo) redraw();
    element("sheet").classList.toggle("photo", photo !== null);
    const empty = !photo && !strokes.length;
    element("hint").hidden = !empty;
    element("clear").disabled = empty;
    element("undo").disabled = !strokes.length;
    if (empty) {
      showNothing();
    } else {
      if (element("label").classList.contains("none")) showNothing("Asking…");
      ask();
    }
  });
}

function start(event) {
  if (event.button > 0 || !event.isPrimary) return;
  event.preventDefault(); // a mouse would select text
  canvas.setPointerCapture(event.pointerId);
  if (photo) clear();
  drawing = [pointOf(event)];
  strokes.push(drawing);
  update();
}

function move(event) {
  if (!drawing || !event.isPrimary) return;
  const events = event.getCoalescedEvents?.() ?? [];
  drawing.push(...(events.length ? events : [event]).map(pointOf));
  update();
}

function stop(event) {
  if (event.isPrimary) drawing = null;
}

function undo() {
  drawing = null;
  if (!strokes.pop()) return;
  if (strokes.length) update();
  else clear();
}

function clear() {
  drawing = photo = null;
  strokes = [];
  subject++;
  setLabel(null);
  tell("");
  update();
}

// ---- A photo

async function open(file) {
  clear();
  if (file.size > LARGEST) {
    tell(`${file.name} is too large; expected at most ${LARGEST / 1e6} MB.`);
    return;
  }
  photo = file;
  const shown = subject;
  update();
  try {
    const picture = await createImageBitmap(file);
    if (shown !== subject) return;
    const side = canvas.width;
    const scale = side / Math.max(picture.width, picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    fill(colour("--track"));
    paper.drawImage(picture, (side - width) / 2, (side - height) / 2, width, height);
  } catch {
    if (shown === subject) showName(file.name); // the server reads TIFF, browsers do not
  }
}

function showName(name) {
  fill(colour("--track"));
  paper.fillStyle = colour("--quiet");
  paper.font = "24px system-ui, sans-serif";
  paper.textAlign = "center";
  paper.fillText(name, canvas.width / 2, canvas.height / 2, canvas.width - 40);
}

// ---- The network's answer

const picture = () => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Sends one request at a time, of the latest picture.
async function ask() {
  if (asking) return;
  asking = true;
  while (changed && (photo || strokes.length)) {
    changed = false;
    const shown = subject;
    const response = await post(photo ?? (await picture()));
    if (shown !== subject) continue;
    if (response === null) {
      await back();
      changed = true;
    } else if (response.status === 503) {
      tell("The server is busy.");
      await pause(1);
      changed = true;
    } else if (response.ok) {
      tell("");
      show(response.body);
    } else {
      showNothing("No answer.");
      tell(sentence(response.body.detail));
    }
  }
  asking = false;
}

async function request(path, milliseconds, options) {
  try {
    const signal = AbortSignal.timeout(milliseconds);
    const response = await fetch(path, { signal, ...options });
    return { ok: response.ok, status: response.status, body: await response.json() };
  } catch {
    return null;
  }
}

const post = (body) => request("api/explain", 60_000, { method: "POST", body });

async function get(path) {
  const response = await request(path, 10_000);
  return response?.ok ? response.body : null;
}

// Repeats the notice, since clearing the sheet removes it.
async function back() {
  do {
    tell("The server does not answer. The page resumes when it is back.");
    await pause(1);
  } while ((await get("health")) === null);
  tell("");
}

const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + ".";

function percent(probability) {
  const shown = (100 * probability).toFixed(1);
  return shown === "100.0" && probability < 1 ? ">99.9%" : `${shown}%`;
}

function show(found) {
  if (found.label === null) {
    showNothing("The picture shows nothing.", "Is it blank?");
  } else {
    setLabel(found.label);
    element("sure").textContent = `${percent(found.probability)} probability`;
    const second = percent(found.runner_up_probability);
    const other = second === "0.0%" ? "All others below 0.05%" : `or ${found.runner_up}, ${second}`;
    element("doubt").textContent = found.problem ? sentence(found.problem) : other;
    say(`${found.label}, ${percent(found.probability)}. ${sentence(found.problem)}`);
    showBars(found.probabilities);
  }
  element("seen").src = found.seen;
  element("seen").hidden = false;
  showMaps(found.feature_maps);
}

function showNothing(why = "Nothing is drawn yet.", more = "") {
  setLabel(null);
  element("sure").textContent = why;
  element("doubt").textContent = more;
  say(photo || strokes.length ? `${why} ${more}` : "");
  element("seen").hidden = true;
  element("maps").replaceChildren();
  showBars({});
}

function setLabel(label) {
  const output = element("label");
  output.textContent = label ?? "–";
  output.classList.toggle("none", label === null);
  output.classList.toggle("long", label !== null && label.length > 2);
}

// Up to MOST_BARS classes keep their places; of more, the most probable are shown.
function showBars(probabilities) {
  const few = labels.length <= MOST_BARS;
  const has = (name) => Object.hasOwn(probabilities, name); // a class may be named "constructor"
  const known = (name) => (has(name) ? probabilities[name] : 0);
  const ranked = few ? labels : [...labels].sort((a, b) => known(b) - known(a));
  const names = ranked.slice(0, MOST_BARS);
  const likeliest = Math.max(...names.map(known));
  names.forEach((name, i) => {
    const row = element("bars").children[i];
    const [title, track, share] = row.children;
    title.textContent = title.title = name;
    track.firstChild.style.transform = `translateX(${100 * known(name) - 100}%)`;
    share.textContent = has(name) ? percent(known(name)) : "";
    row.classList.toggle("best", likeliest > 0 && known(name) === likeliest);
  });
}

function makeBars() {
  const parts = ["name", "track", "share"];
  for (const _ of labels.slice(0, MOST_BARS)) {
    const row = document.createElement("li");
    row.append(...parts.map((part) => make("span", part)));
    row.children[1].append(make("div", "fill"));
    element("bars").append(row);
  }
  const longest = Math.min(13, Math.max(...labels.map((label) => label.length)));
  element("bars").style.setProperty("--names", `${0.62 * longest}em`);
  showBars({});
}

function make(kind, className) {
  const made = document.createElement(kind);
  made.className = className;
  return made;
}

// Replaces pictures in place, so that the page does not jump.
function showMaps(maps) {
  const names = Object.keys(maps);
  const figures = element("maps");
  if (figures.children.length !== names.length) {
    figures.replaceChildren(
      ...names.map((name) => {
        const figure = make("figure", "");
        const caption = make("figcaption", "");
        caption.textContent = `Feature maps of ${name}: light where a filter fits`;
        const image = make("img", "");
        image.alt = `The feature maps of ${name}`;
        figure.append(caption, image);
        return figure;
      }),
    );
  }
  names.forEach((name, i) => {
    figures.children[i].lastChild.src = maps[name];
  });
}

// Screen readers announce only an answer that stays for a moment.
let speaking = 0;
function say(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    if (element("spoken").textContent !== text) element("spoken").textContent = text;
  }, 600);
}

function tell(text) {
  element("notice").textContent = text;
  element("notice").hidden = !text;
}

// ---- The start

const spell = (name) => name.split("_").map((word) => SPELLED[word] ?? word).join(" ");
const article = (name) => (/^([aeio]|MLP)/i.test(name) ? "An" : "A");

async function introduce() {
  let network;
  while ((network = await get("api/network")) === null) await back();
  labels = network.label_names;
  const digits = labels.every((label) => /^[0-9]$/.test(label));
  element("title").textContent = digits ? "Draw a digit" : "Draw, or open a photo";
  const architecture = spell(network.architecture);
  const accuracy = network.test_accuracy;
  const facts = [
    `${article(architecture)} ${architecture} trained on ${spell(network.dataset)}`,
    `${network.params.toLocaleString("en")} parameters`,
    accuracy === null ? "" : `${(100 * accuracy).toFixed(2)}% test accuracy`,
    digits ? "" : `${labels.length} classes`,
  ];
  const strange = network.drawings ? "" : " It was trained on pictures, not on drawings.";
  element("about").textContent = `${facts.filter(Boolean).join(", ")}.${strange}`;
  const [height, width] = network.image_shape;
  element("size").textContent = `: ${width} × ${height} pixels`;
  makeBars();
}

canvas.addEventListener("pointerdown", start);
canvas.addEventListener("pointermove", move);
canvas.addEventListener("pointerup", stop);
canvas.addEventListener("pointercancel", stop);
element("undo").addEventListener("click", undo);
element("clear").addEventListener("click", clear);
const openFirst = ([file]) => file && open(file);
element("file").addEventListener("change", ({ target }) => {
  openFirst(target.files);
  target.value = ""; // so that the same file can be opened again
});

document.addEventListener("keydown", (event) => {
  const letter = event.key.toLowerCase();
  if (letter === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (event.key === "Escape") clear();
  else return;
  event.preventDefault();
});
document.addEventListener("paste", (event) => openFirst(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("sheet").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("sheet").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("sheet").classList.remove("over");
  openFirst(event.dataTransfer.files);
});

await introduce();
update();

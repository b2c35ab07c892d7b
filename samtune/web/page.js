// The page: opens a picture, collects points, and draws what worker.js answers.

const OBJECT = "#00c850";
const BACKGROUND = "#dc281e";
const MASK = [0, 114, 178];

const $ = (selector) => document.querySelector(selector);
const panels = ["plain", "adapter"].map((name) => ({
  name,
  canvas: $(`#${name} canvas`),
  told: $(`#${name} output`),
  save: $(`#${name} button`),
  answer: null, // {mask, area, score, seconds} for the points as they are
}));
const kinds = document.querySelectorAll("input[name=kind]");

let picture = null; // {id, name, bitmap, height, width, encoded}
let points = []; // {x, y, label}; an integer is a pixel's centre, as in samtune
let cross = null; // {x, y} of the keyboard's cross
let asked = null; // the points that are being answered
let broken = false;

const worker = new Worker("worker.js", { type: "module" });
worker.addEventListener("message", ({ data }) => receive[data.kind](data));
worker.addEventListener("error", (event) => {
  const why = event.message ? ` (${event.message})` : "";
  fail(`The page's own program cannot be loaded${why}: export it again, and copy all of its files.`);
});

const receive = {
  progress({ done, total }) {
    $("#loading").value = done / total;
    say(`Loading models: ${megabytes(done)} of ${megabytes(total)} MB`);
  },
  ready({ models }) {
    for (const place of document.querySelectorAll(".adapter")) place.textContent = models.name;
    $("#adapter canvas").ariaLabel = models.name;
    document.title = `${models.name} beside plain SAM`;
    document.body.dataset.ready = "";
    $("#loading").hidden = true;
    say(picture ? "Reading the picture …" : "Ready: open a picture.");
  },
  encoded({ id, seconds }) {
    if (id !== picture.id) return;
    picture.encoded = true;
    say(`${picture.name}: ${picture.width} × ${picture.height} px, encoded in ${seconds.toFixed(1)} s. Click on an object.`);
    ask();
  },
  answers({ id, answers }) {
    if (id !== picture.id) return; // another one has been opened since
    const current = asked === points;
    asked = null;
    if (!current) return ask();
    panels.forEach((panel, i) => (panel.answer = answers[i]));
    say(`${count(points.length, "point")}: ${panels.map((panel) => `${title(panel)} ${describe(panel.answer)}`).join("; ")}`);
    draw();
  },
  failed({ message, fatal }) {
    asked = null;
    fail(message, fatal);
  },
};

function say(text) {
  if (broken) return;
  $("#status").className = "";
  $("#status").textContent = text;
}

function fail(message, fatal = true) {
  say("");
  broken = fatal;
  $("#loading").hidden = true;
  $("#status").className = "failed";
  $("#status").textContent = message;
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const title = (panel) => $(`#${panel.name} b`).textContent;
const describe = ({ score, area, seconds }) =>
  `score ${score.toFixed(2)}, ${area.toLocaleString("en")} px, ${seconds.toFixed(2)} s`;

// ------------------------------------------------------------------------------------ pictures

async function open(file) {
  let bitmap;
  let rgba;
  try {
    // The numbers of the file, as samtune reads them: turned upright, colours not converted.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    const surface = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    surface.fillStyle = "white"; // behind transparent pixels
    surface.fillRect(0, 0, bitmap.width, bitmap.height);
    surface.drawImage(bitmap, 0, 0);
    rgba = surface.getImageData(0, 0, bitmap.width, bitmap.height).data.buffer;
  } catch {
    return fail(`${file.name} is no picture that this browser can open: try a JPEG, PNG or WebP file.`, false);
  }
  const { width, height } = bitmap;
  picture = { id: (picture?.id ?? 0) + 1, name: file.name, bitmap, width, height, encoded: false };
  points = [];
  cross = asked = null;
  for (const { canvas } of panels) Object.assign(canvas, { width, height });
  $("main").className = "";
  if ("ready" in document.body.dataset) say("Reading the picture …");
  worker.postMessage({ kind: "picture", id: picture.id, rgba, height, width }, [rgba]);
  changed();
}

$("#file").addEventListener("change", ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = ""; // so that the same file can be opened again
});
addEventListener("paste", ({ clipboardData }) => clipboardData.files.length && open(clipboardData.files[0]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
addEventListener("dragleave", () => document.body.classList.remove("dragged"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});

// ------------------------------------------------------------------------------------ points

function add(x, y, label) {
  points = [...points, { x, y, label }];
  changed();
}

function undo() {
  points = points.slice(0, -1);
  changed();
}

function clear() {
  points = [];
  changed();
}

function changed() {
  for (const panel of panels) panel.answer = null;
  $("#undo").disabled = $("#clear").disabled = points.length === 0;
  draw();
  ask();
}

/** Ask for the points as they are; while an answer is awaited, later points wait for it. */
function ask() {
  if (asked || !picture?.encoded || points.length === 0) return;
  if (!points.some(({ label }) => label === 1)) {
    return say("Points on the background alone do not say where the object is: add one on it.");
  }
  asked = points;
  worker.postMessage({ kind: "ask", id: picture.id, points });
}

const chosenKind = () => Number([...kinds].find(({ checked }) => checked).value);
const clamp = (value, most) => Math.min(Math.max(value, 0), most);

function pixelAt(event) {
  const box = event.target.getBoundingClientRect();
  const line = event.target.clientLeft; // the border
  const x = ((event.clientX - box.left - line) / event.target.clientWidth) * picture.width;
  const y = ((event.clientY - box.top - line) / event.target.clientHeight) * picture.height;
  return [clamp(Math.floor(x), picture.width - 1), clamp(Math.floor(y), picture.height - 1)];
}

function onKey(event) {
  if (!picture) return;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  cross ??= { x: picture.width >> 1, y: picture.height >> 1 };
  if (event.key in moves) {
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(picture.width, picture.height) / 100));
    cross.x = clamp(cross.x + step * moves[event.key][0], picture.width - 1);
    cross.y = clamp(cross.y + step * moves[event.key][1], picture.height - 1);
    draw();
  } else if (event.key === "Enter") add(cross.x, cross.y, event.shiftKey ? 0 : chosenKind());
  else return;
  event.preventDefault();
}

for (const { canvas } of panels) {
  canvas.addEventListener("click", (event) => {
    if (!picture) return;
    cross = null;
    add(...pixelAt(event), event.shiftKey ? 0 : chosenKind());
  });
  canvas.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    if (picture) add(...pixelAt(event), 0);
  });
  canvas.addEventListener("keydown", onKey);
  canvas.addEventListener("focus", () => {
    if (!picture || !canvas.matches(":focus-visible")) return; // by Tab, not by a click
    cross ??= { x: picture.width >> 1, y: picture.height >> 1 };
    draw();
  });
}
addEventListener("keydown", (event) => {
  const back = event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey));
  if (back) undo();
  else if (event.key === "Escape") clear();
  else return;
  event.preventDefault();
});
$("#undo").addEventListener("click", undo);
$("#clear").addEventListener("click", clear);

// ------------------------------------------------------------------------------------ drawing

function draw() {
  for (const panel of panels) drawPanel(panel);
}

function drawPanel({ canvas, told, save, answer }) {
  if (!picture) return;
  const context = canvas.getContext("2d");
  const line = Math.max(1, Math.max(picture.width, picture.height) / 400);
  context.drawImage(picture.bitmap, 0, 0);
  if (answer) drawMask(context, answer, line);
  for (const { x, y, label } of points) drawPoint(context, x + 0.5, y + 0.5, label, line);
  if (cross) drawCross(context, cross.x + 0.5, cross.y + 0.5, line);
  save.hidden = !answer;
  told.textContent = answer ? describe(answer) : points.length && picture.encoded ? "…" : "";
}

/** The mask as a picture of its own, in one colour. */
function silhouette({ mask }, [red, green, blue]) {
  const image = new ImageData(picture.width, picture.height);
  const colour = new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0];
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < mask.length; i++) if (mask[i]) pixels[i] = colour;
  const surface = new OffscreenCanvas(picture.width, picture.height);
  surface.getContext("2d").putImageData(image, 0, 0);
  return surface;
}

function drawMask(context, answer, line) {
  const shape = silhouette(answer, MASK);
  context.globalAlpha = 0.45;
  context.drawImage(shape, 0, 0);
  context.globalAlpha = 1;
  // Its outline: the shape moved all round, without itself.
  const ring = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  for (let turn = 0; turn < 8; turn++) {
    const angle = (turn * Math.PI) / 4;
    ring.drawImage(shape, line * Math.cos(angle), line * Math.sin(angle));
  }
  ring.globalCompositeOperation = "source-in";
  ring.fillStyle = "white";
  ring.fillRect(0, 0, picture.width, picture.height);
  ring.globalCompositeOperation = "destination-out";
  ring.drawImage(shape, 0, 0);
  context.drawImage(ring.canvas, 0, 0);
}

function drawPoint(context, x, y, label, line) {
  context.beginPath();
  context.arc(x, y, 3 * line, 0, 2 * Math.PI);
  context.fillStyle = label ? OBJECT : BACKGROUND;
  context.fill();
  context.lineWidth = line;
  context.strokeStyle = "white";
  context.stroke();
}

function drawCross(context, x, y, line) {
  for (const [style, width] of [["black", 3 * line], ["white", line]]) {
    context.beginPath();
    context.moveTo(x - 8 * line, y);
    context.lineTo(x + 8 * line, y);
    context.moveTo(x, y - 8 * line);
    context.lineTo(x, y + 8 * line);
    context.lineWidth = width;
    context.strokeStyle = style;
    context.stroke();
  }
}

// ------------------------------------------------------------------------------------ saving

for (const panel of panels) {
  panel.save.addEventListener("click", async () => {
    const surface = new OffscreenCanvas(picture.width, picture.height);
    const context = surface.getContext("2d");
    context.fillRect(0, 0, picture.width, picture.height);
    context.drawImage(silhouette(panel.answer, [255, 255, 255]), 0, 0);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await surface.convertToBlob());
    link.download = `${picture.name.replace(/\.[^.]*$/, "")}.${panel.name}.mask.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // when it has been written
  });
}

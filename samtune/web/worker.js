// Everything that takes time, off the page's thread: fetching the models, encoding a picture,
// answering clicks.
//
//   to the page     progress {done, total} · ready {models} · encoded {id, seconds} ·
//                   answers {id, answers} · failed {message, fatal}
//   from the page   picture {id, rgba, height, width} · ask {id, points}

import * as ort from "./ort.js";
import { inputSize, resize } from "./resize.js";

const DECODERS = ["plain", "adapter"];
let models; // models.json
let encoder;
let decoders;
let newest; // id of the last picture that was opened
let picture; // {height, width, frame, embeddings} of the last one encoded

async function fetchFile(name) {
  let response;
  try {
    response = await fetch(name);
  } catch (error) {
    throw new Error(`${name} cannot be loaded (${error.message}): is the server still there?`);
  }
  if (!response.ok) {
    const why = `${response.status} ${response.statusText}`.trim();
    throw new Error(`${name} cannot be loaded (${why}): export the page again, and copy all of its files.`);
  }
  return response;
}

/** A large file, with progress; its size is known from models.json. */
async function fetchBytes(name, size, onBytes) {
  const content = new Uint8Array(size);
  const reader = (await fetchFile(name)).body.getReader();
  let done = 0;
  for (;;) {
    const { value, done: end } = await reader.read();
    if (end) break;
    if (done + value.length > size) break;
    content.set(value, done);
    done += value.length;
    onBytes(value.length);
  }
  if (done !== size) throw new Error(`${name} is not as long as it was exported: copy the files again.`);
  return content;
}

async function load() {
  models = await (await fetchFile("models.json")).json();
  const total = Object.values(models.files).reduce((sum, size) => sum + size, 0);
  let done = 0;
  const fetchCounted = (name) =>
    fetchBytes(name, models.files[name], (bytes) => {
      done += bytes;
      postMessage({ kind: "progress", done, total });
    });
  const content = {};
  for (const name of Object.keys(models.files)) content[name] = await fetchCounted(name);
  ort.env.wasm.wasmBinary = content["ort.wasm"];
  const open = (name) => ort.InferenceSession.create(content[name], { executionProviders: ["wasm"] });
  encoder = await open("encoder.onnx");
  decoders = [];
  for (const name of DECODERS) decoders.push(await open(`${name}.onnx`));
  postMessage({ kind: "ready", models });
}

async function encode({ id, rgba, height, width }) {
  if (id !== newest) return; // another picture has been opened since
  const started = performance.now();
  const frame = inputSize(height, width, models.input_size);
  const pixels = new Float32Array(resize(new Uint8Array(rgba), height, width, ...frame));
  const { image_embeddings: embeddings } = await encoder.run({
    input_image: new ort.Tensor("float32", pixels, [...frame, 3]),
  });
  picture = { height, width, frame, embeddings };
  postMessage({ kind: "encoded", id, seconds: (performance.now() - started) / 1000 });
}

async function answer({ id, points }) {
  if (id !== newest) return;
  const { height, width, frame, embeddings } = picture;
  const scale = [frame[1] / width, frame[0] / height];
  // As segment-anything's export wants it: a padding point at the end where there is no box.
  const coords = [...points.flatMap(({ x, y }) => [x * scale[0], y * scale[1]]), 0, 0];
  const labels = [...points.map(({ label }) => label), -1];
  const side = 4 * embeddings.dims[2];
  const inputs = {
    image_embeddings: embeddings,
    point_coords: new ort.Tensor("float32", Float32Array.from(coords), [1, labels.length, 2]),
    point_labels: new ort.Tensor("float32", Float32Array.from(labels), [1, labels.length]),
    mask_input: new ort.Tensor("float32", new Float32Array(side * side), [1, 1, side, side]),
    has_mask_input: new ort.Tensor("float32", new Float32Array(1), [1]),
    orig_im_size: new ort.Tensor("float32", Float32Array.from([height, width]), [2]),
  };
  const answers = [];
  for (const decoder of decoders) {
    const started = performance.now();
    const { masks, iou_predictions: scores } = await decoder.run(inputs);
    const mask = new Uint8Array(height * width);
    const logits = masks.data;
    let area = 0;
    for (let i = 0; i < mask.length; i++) area += mask[i] = logits[i] > 0 ? 1 : 0;
    const seconds = (performance.now() - started) / 1000;
    answers.push({ mask, area, score: scores.data[0], seconds });
    masks.dispose();
  }
  postMessage({ kind: "answers", id, answers }, answers.map(({ mask }) => mask.buffer));
}

function failed(error, fatal) {
  postMessage({ kind: "failed", message: error?.message ?? String(error), fatal });
}

const loaded = load();
loaded.catch((error) => failed(error, true));
let last = loaded; // one thing after the other: a session runs one at a time
addEventListener("message", ({ data }) => {
  newest = data.id;
  const work = data.kind === "picture" ? encode : answer;
  last = last.then(() => work(data)).catch((error) => loaded.then(() => failed(error, false), () => {}));
});

// The page of `hwnas demo`: an image in, the classes and the time of one inference out.
"use strict";

const MODEL = JSON.parse(document.getElementById("model").textContent);
const RUNS = 5;
let session = null;

// The centre of an image at the model's size, as values (C, H, W) of its input.
function valuesOf(image) {
  const [channels, height, width] = MODEL.shape;
  const scale = Math.min(image.width / width, image.height / height);
  const [w, h] = [scale * width, scale * height];
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (image.width - w) / 2, (image.height - h) / 2, w, h, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height).data;
  const raw = (channel, i) => channels === 3 ? pixels[4 * i + channel]
    // The luma of ITU-R BT.601, as Pillow rounds it.
    : (pixels[4 * i] * 19595 + pixels[4 * i + 1] * 38470 + pixels[4 * i + 2] * 7471 + 32768) >> 16;
  const size = height * width;
  const values = MODEL.normalises ? new Uint8Array(channels * size) : new Float32Array(channels * size);
  for (let channel = 0; channel < channels; channel++) {
    for (let i = 0; i < size; i++) {
      const value = raw(channel, i);
      values[channel * size + i] = MODEL.normalises ? value
        : (value - 255 * MODEL.mean[channel]) / (255 * MODEL.std[channel]);
    }
  }
  return new ort.Tensor(MODEL.normalises ? "uint8" : "float32", values, [1, ...MODEL.shape]);
}

// The classes of an image with their probabilities, the most probable first, and the time.
async function classify(image) {
  session ??= await ort.InferenceSession.create("model.onnx", {executionProviders: ["wasm"]});
  const feeds = {[MODEL.input]: valuesOf(image)};
  let outputs = await session.run(feeds);
  const times = [];
  for (let i = 0; i < RUNS; i++) {
    const start = performance.now();
    outputs = await session.run(feeds);
    times.push(performance.now() - start);
  }
  const logits = Array.from(outputs[session.outputNames[0]].data);
  const most = Math.max(...logits);
  const scores = logits.map((logit) => Math.exp(logit - most));
  const sum = scores.reduce((a, b) => a + b);
  const classes = scores.map((score, i) => ({name: MODEL.classes[i], probability: score / sum}));
  classes.sort((a, b) => b.probability - a.probability);
  times.sort((a, b) => a - b);
  return {classes, ms: times[RUNS >> 1]};
}

async function show(file) {
  const status = document.getElementById("status");
  const list = document.getElementById("classes");
  list.replaceChildren();
  try {
    const image = await createImageBitmap(file);
    const picture = document.getElementById("picture");
    picture.width = image.width;
    picture.height = image.height;
    picture.getContext("2d").drawImage(image, 0, 0);
    const found = await classify(image);
    status.textContent = `${found.ms.toFixed(2)} ms, one thread`;
    for (const {name, probability} of found.classes.slice(0, 5)) {
      const line = document.createElement("li");
      line.textContent = `${name} ${(100 * probability).toFixed(1)} %`;
      list.append(line);
    }
  } catch (error) {
    status.textContent = `This image cannot be classified: ${error.message || error}`;
  }
}

ort.env.wasm.numThreads = 1;
document.getElementById("file").addEventListener("change", ({target}) => {
  if (target.files.length) show(target.files[0]);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
});

// Off the page's thread: decodes photos, and runs the net on them.

import * as ort from "./ort/ort.wasm.bundle.min.js";
import { pixelsOf } from "./pixels.js";

const MOST_THREADS = 8;
const WHOLE = 3_000_000; // pixels of an image that is not divided, for memory's sake
const SIDE = 1536; // pixels of a tile
const LOOK = 500_000; // pixels of a first look at larger images
let model, session;
let newest = 0; // of the tasks

async function load(description) {
  model = description;
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS)
    : 1;
  const bytes = await fetched(new URL(model.file, import.meta.url), model.bytes);
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return { threads: ort.env.wasm.numThreads };
}

async function fetched(address, size) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address.pathname}: ${answer.status} ${answer.statusText}`);
  const parts = [];
  let have = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    have += value.length;
    self.postMessage({ progress: Math.min(1, have / size) });
  }
}

async function label({ blob, bitmap }, id) {
  const { pixels, width, height } = await pixelsOf(blob ?? bitmap);
  if (width * height <= WHOLE) {
    return { width, height, heads: await run(pixels, width, height), bitmap };
  }
  const look = await firstLook(pixels, width, height);
  if (!model.tile) return { ...look, bitmap };
  self.postMessage({ id, look }, buffersOf(look));
  const heads = Object.fromEntries(model.heads.map(({ name }) => [name, new Uint8Array(width * height)]));
  const tiles = spans(height).flatMap((down) => spans(width).map((across) => [down, across]));
  for (const [index, [down, across]] of tiles.entries()) {
    self.postMessage({ progress: index / tiles.length });
    await new Promise((resolve) => setTimeout(resolve)); // messages come in meanwhile
    if (id !== newest) throw new Error("Another photo was chosen.");
    const part = window(pixels, width, down, across);
    const labelled = await run(part, across.end - across.begin, down.end - down.begin);
    for (const name in heads) place(labelled[name], heads[name], width, down, across);
  }
  return { width, height, heads, bitmap };
}

/** The labels of the photo made smaller, which are soon there. */
async function firstLook(pixels, width, height) {
  const by = Math.ceil(Math.sqrt((width * height) / LOOK));
  const [less, lower] = [Math.floor(width / by), Math.floor(height / by)];
  const small = new Uint8Array(less * lower * 3);
  for (let y = 0, to = 0; y < lower; y++) {
    for (let x = 0; x < less; x++) {
      for (let channel = 0; channel < 3; channel++, to++) {
        let sum = 0;
        for (let down = 0; down < by; down++) {
          const row = 3 * ((y * by + down) * width + x * by) + channel;
          for (let across = 0; across < by; across++) sum += pixels[row + 3 * across];
        }
        small[to] = sum / (by * by) + 0.5;
      }
    }
  }
  return { width: less, height: lower, heads: await run(small, less, lower) };
}

async function run(pixels, width, height) {
  const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const outputs = await session.run({ [session.inputNames[0]]: image });
  const heads = {};
  for (const head of model.heads) heads[head.name] = outputs[head.output].data.slice();
  for (const output of Object.values(outputs)) output.dispose();
  return heads;
}

/**
 * Divide an axis into tiles from `begin` to `end`, whose labels are taken from `from` to `to`. They
 * reach as far beyond these as labels depend on pixels, and begin where the whole image has cells:
 * so the labels are those of the whole image.
 */
function spans(size) {
  const { align, before, after } = model.tile;
  const found = [];
  for (let from = 0; from < size; from = found.at(-1).to) {
    const begin = Math.max(0, Math.floor((from - before) / align) * align);
    const end = Math.min(size, begin + Math.max(SIDE, before + after + 4 * align));
    found.push({ begin, end, from, to: end === size ? size : end - after });
  }
  return found;
}

function window(pixels, width, down, across) {
  const row = 3 * (across.end - across.begin);
  const part = new Uint8Array((down.end - down.begin) * row);
  for (let y = down.begin; y < down.end; y++) {
    const at = 3 * (y * width + across.begin);
    part.set(pixels.subarray(at, at + row), (y - down.begin) * row);
  }
  return part;
}

function place(labels, whole, width, down, across) {
  const row = across.end - across.begin;
  for (let y = down.from; y < down.to; y++) {
    const at = (y - down.begin) * row - across.begin;
    whole.set(labels.subarray(at + across.from, at + across.to), y * width + across.from);
  }
}

const buffersOf = ({ heads = {} }) => Object.values(heads).map((labels) => labels.buffer);

self.onmessage = async ({ data: { id, ...task } }) => {
  try {
    newest = id;
    const answer = task.model ? await load(task.model) : await label(task, id);
    const transfer = buffersOf(answer);
    if (answer.bitmap) transfer.push(answer.bitmap);
    self.postMessage({ id, ...answer }, transfer);
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
};

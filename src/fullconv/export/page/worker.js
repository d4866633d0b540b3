// Off the page's thread: decodes photos, and runs the net on them.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { pixelsOf } from "./pixels.js";

const MOST_THREADS = 8;
let model, session;

async function load(description) {
  model = description;
  ort.env.wasm.wasmPaths = { wasm: new URL("ort/ort-wasm-simd-threaded.wasm", import.meta.url).href };
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
  const bytes = new Uint8Array(size);
  let have = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value, have);
    have += value.length;
    self.postMessage({ progress: have / size });
  }
  if (have !== size) throw new Error(`${address.pathname}: broke off; load the page again.`);
  return bytes;
}

async function label({ blob, bitmap }) {
  const { pixels, width, height } = await pixelsOf(blob ?? bitmap);
  const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const outputs = await session.run({ [session.inputNames[0]]: image });
  const heads = {};
  for (const head of model.heads) heads[head.name] = outputs[head.output].data.slice();
  for (const output of Object.values(outputs)) output.dispose();
  return { width, height, heads, bitmap };
}

self.onmessage = async ({ data: { id, ...task } }) => {
  try {
    const answer = task.model ? await load(task.model) : await label(task);
    const transfer = Object.values(answer.heads ?? {}).map((labels) => labels.buffer);
    if (answer.bitmap) transfer.push(answer.bitmap);
    self.postMessage({ id, ...answer }, transfer);
  } catch (error) {
    self.postMessage({ id, error: error?.message ?? String(error) });
  }
};

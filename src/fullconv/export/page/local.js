// The net is beside the page: ONNX Runtime runs it in a worker, so that the page stays quick.

/** Start the worker, and have it load the net. `onProgress` gets shares of what is loaded, 0..1. */
export async function open(model, onProgress = () => {}) {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let last = 0;
  let broken = null;

  worker.onmessage = ({ data }) => {
    if (data.progress !== undefined) return onProgress(data.progress);
    const { resolve, reject, looks } = waiting.get(data.id);
    if (data.look) return looks?.(data.look);
    waiting.delete(data.id);
    return data.error === undefined ? resolve(data) : reject(new Error(data.error));
  };
  worker.onerror = (event) => {
    broken = new Error(event.message || "The worker could not be started.");
    for (const { reject } of waiting.values()) reject(broken);
    waiting.clear();
  };

  function ask(message, transfer = [], looks = null) {
    if (broken) return Promise.reject(broken);
    return new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject, looks });
      worker.postMessage({ ...message, id: last }, transfer);
    });
  }

  /**
   * Label {blob} or {bitmap}: {width, height, heads: {name: Uint8Array}}; the bitmap comes back. For
   * large ones, `looks` first gets the same of a smaller size. Where that is all, so is the answer.
   */
  function label({ blob, bitmap }, head, looks) {
    return bitmap ? ask({ bitmap }, [bitmap], looks) : ask({ blob }, [], looks);
  }

  const { threads } = await ask({ model });
  return { label, facts: [threads > 1 ? `${threads} threads` : "one thread"] };
}

// The net is on the server: it is sent the photo's file, and answers with a PNG of labels.

import { decode } from "./png.js";

export async function open(model) {
  const address = new URL(model.endpoint ?? "v1/segment", document.baseURI);

  /** Label {blob} or {bitmap}: {width, height, heads: {name: Uint8Array}}. */
  async function label({ blob, bitmap }, head) {
    const target = new URL(address);
    if (model.heads.length > 1) target.searchParams.set("head", head);
    const body = blob ?? (await asJpeg(bitmap));
    const answer = await fetch(target, {
      method: "POST",
      headers: { Accept: "image/png", "Content-Type": body.type || "application/octet-stream" },
      body,
    });
    if (!answer.ok) throw new Error(await told(answer));
    const { labels, width, height } = await decode(new Uint8Array(await answer.arrayBuffer()));
    return { width, height, heads: { [head]: labels }, bitmap };
  }

  return { label, facts: [] };
}

async function told(answer) {
  if (answer.status === 503) return "The server is busy; try again in a moment.";
  const text = await answer.text();
  try {
    return String(JSON.parse(text).detail);
  } catch {
    return text || `The server answered ${answer.status}.`;
  }
}

async function asJpeg(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

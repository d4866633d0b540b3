// The net is on the server: it is sent the photo's file, and answers with a PNG of labels.

import { decode } from "./png.js";

const PATIENCE = 3; // how often a busy server is asked again
const MOST_WAIT = 5; // seconds until then, at most
const TOKEN = "fullconv token"; // its name in what the browser keeps until the tab is closed

export async function open(model) {
  const address = new URL(model.endpoint, document.baseURI);

  /** Label {blob} or {bitmap}: {width, height, heads: {name: Uint8Array}}. */
  async function label({ blob, bitmap }, head) {
    const target = new URL(address);
    if (model.heads.length > 1) target.searchParams.set("head", head);
    const answer = await post(target, blob ?? (await asJpeg(bitmap)));
    const { labels, width, height } = await decode(new Uint8Array(await answer.arrayBuffer()));
    return { width, height, heads: { [head]: labels }, bitmap };
  }

  return { label, facts: [] };
}

async function post(target, body) {
  for (let tries = 0; ; tries++) {
    const headers = { Accept: "image/png", "Content-Type": body.type || "application/octet-stream" };
    const token = sessionStorage.getItem(TOKEN);
    if (token) headers.Authorization = `Bearer ${token}`;
    const answer = await fetch(target, { method: "POST", headers, body });
    if (answer.ok) return answer;
    if (answer.status === 401 && askForToken(token)) continue;
    if (answer.status !== 503 || tries >= PATIENCE) throw new Error(await told(answer));
    const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, MOST_WAIT);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

function askForToken(wrong) {
  const given = prompt(wrong ? "That token is not right. The server's token:" : "The server's token:");
  if (given) sessionStorage.setItem(TOKEN, given.trim());
  else sessionStorage.removeItem(TOKEN);
  return Boolean(given);
}

async function told(answer) {
  if (answer.status === 503) return "The server is busy; try again in a moment.";
  const text = await answer.text();
  try {
    const { detail } = JSON.parse(text);
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return text || `The server answered ${answer.status}.`;
  }
}

async function asJpeg(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

// Keeps the site's files, so that it works with the network off; and has the browser isolate the
// page from other sites (COOP, COEP), without which WebAssembly gets one thread.

const VERSION = "development"; // the exporter writes a digest of all files here
const SITE = `fullconv ${self.registration.scope} `;
const CACHE = SITE + VERSION;
const LATER = ["model.onnx", "ort/ort-wasm-simd-threaded.wasm"]; // kept as the page fetches them
const NOW = [
  "./", "style.css", "icon.svg", "model.json", "main.js", "view.js", "legend.js", "labels.js",
  "camera.js", "png.js", "local.js", "server.js", "worker.js", "pixels.js",
  "ort/ort.wasm.bundle.min.mjs",
];
const FILES = new Set([...NOW, ...LATER].map((file) => new URL(file, self.registration.scope).href));

self.addEventListener("install", (event) => {
  const fresh = NOW.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => {
  event.waitUntil(takeOver());
});

async function takeOver() {
  const isOld = (name) => name.startsWith(SITE) && name !== CACHE;
  await Promise.all((await caches.keys()).filter(isOld).map((name) => caches.delete(name)));
  await self.clients.claim();
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const address = new URL(request.url);
  address.hash = address.search = "";
  if (address.pathname.endsWith("/index.html")) address.pathname = address.pathname.slice(0, -10);
  if (request.method === "GET" && FILES.has(address.href)) event.respondWith(kept(address.href, event));
});

async function kept(address, event) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(address);
  if (found) return isolated(found);
  const answer = await fetch(address, { cache: "no-cache" });
  if (answer.ok) event.waitUntil(cache.put(address, answer.clone()));
  return isolated(answer);
}

function isolated(answer) {
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

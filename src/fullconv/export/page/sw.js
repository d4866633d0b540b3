// Keeps the site's files for times without a network; and has the browser isolate the page from
// other sites (COOP, COEP), without which WebAssembly gets one thread.

const CACHE = `fullconv ${self.registration.scope}`;
const LATER = ["model.onnx", "ort/ort-wasm-simd-threaded.wasm"]; // kept as the page fetches them
const NOW = [
  "./", "style.css", "icon.svg", "model.json", "main.js", "view.js", "legend.js", "labels.js",
  "camera.js", "png.js", "local.js", "server.js", "worker.js", "pixels.js",
  "ort/ort.wasm.bundle.min.js",
];
const FILES = new Set([...NOW, ...LATER].map((file) => new URL(file, self.registration.scope).href));
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", (event) => {
  const fresh = NOW.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  address.hash = address.search = "";
  if (address.pathname.endsWith("/index.html")) address.pathname = address.pathname.slice(0, -10);
  if (event.request.method === "GET" && FILES.has(address.href)) {
    event.respondWith(answered(address.href, event));
  }
});

/** What the network has, asked whether it changed; without a network, what was kept of it. */
async function answered(address, event) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(address);
  try {
    const answer = await fetch(address, { cache: "no-cache" });
    if (answer.ok && !isSame(answer, kept)) event.waitUntil(cache.put(address, answer.clone()));
    if (answer.ok || !kept) return isolated(answer, address);
  } catch (error) {
    if (!kept) throw error;
  }
  return isolated(kept, address);
}

function isSame(answer, kept) {
  const versions = ["ETag", "Last-Modified"].filter((name) => answer.headers.has(name));
  return versions.length > 0 && versions.every((name) => answer.headers.get(name) === kept?.headers.get(name));
}

function isolated(answer, address) {
  const headers = new Headers(answer.headers);
  if (address.endsWith(".wasm")) headers.set("Content-Type", "application/wasm"); // not all hosts do
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
}

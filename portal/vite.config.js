import { defineConfig } from "vite";

export default defineConfig({
  build: {
    target: "es2022",
    // Everything is a file of its own: the pages allow no inline code.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1500,
    rolldownOptions: { input: ["index.html", "docs.html"] },
  },
});

// What the page does by itself: its language, and which tab it shows. It runs before Gradio, which asks the browser for
// its language when it starts; labkit/ui/served.py puts it into the head of the page.
"use strict";

const labkit = (() => {
  const chosen = document.cookie.match(/(?:^|; )labkit-language=(en|zh)(?:;|$)/);
  const chinese = (chosen ? chosen[1] : navigator.language).toLowerCase().startsWith("zh");
  // Gradio knows no other Chinese by the words that we give it; our viewers read the same.
  Object.defineProperty(navigator, "language", { value: chinese ? "zh-CN" : "en", configurable: true });
  document.documentElement.lang = chinese ? "zh" : "en";

  const order = ["attention", "decoding", "preferences", "runs"];
  const shown = () => [...document.querySelectorAll("button[role=tab][data-tab-id]")];
  // Tabs that have no room stand in a menu, in the same order, without a name of their own.
  const inMenu = () => [...document.querySelectorAll(".overflow-dropdown button")];
  const hidden = () => order.filter((key) => !shown().some((button) => button.dataset.tabId === key));

  const inAddress = () => {
    const asked = new URLSearchParams(location.search);
    return asked.get("tab") || (asked.has("decoding") ? "decoding" : order[0]);
  };

  addEventListener(
    "click",
    (event) => {
      const button = event.target.closest("button[role=tab][data-tab-id], .overflow-dropdown button");
      const key = button && (button.dataset.tabId || hidden()[inMenu().indexOf(button)]);
      if (!key || key === inAddress()) return;
      const address = new URL(location.href);
      address.searchParams.set("tab", key);
      history.pushState(null, "", address);
    },
    true,
  );

  // The arrow keys, Home and End go from tab to tab, as in every row of tabs.
  addEventListener("keydown", (event) => {
    const tabs = shown(), at = tabs.indexOf(event.target);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const chosen = tabs[(next + tabs.length) % tabs.length];
    chosen.click();
    chosen.focus();
  });

  addEventListener("popstate", () => {
    const key = inAddress();
    (shown().find((button) => button.dataset.tabId === key) || inMenu()[hidden().indexOf(key)])?.click();
  });

  return {
    switchLanguage() {
      document.cookie = `labkit-language=${chinese ? "en" : "zh"}; path=/; max-age=31536000; SameSite=Lax`;
      location.reload();
    },

    openReport(run) {
      if (run) window.open(`report/${encodeURIComponent(run)}`, "_blank", "noopener");
    },
  };
})();

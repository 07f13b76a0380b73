// Sets the chosen theme before anything is painted. Without a choice the system's holds.
(function () {
  "use strict";
  var theme = null;
  try {
    theme = localStorage.getItem("posthaste-theme");
  } catch (e) {
    // Storage may be forbidden; then the choice lasts for a page.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();

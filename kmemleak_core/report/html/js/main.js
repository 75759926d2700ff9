// Starts the page: its parts, and the choice between light and dark.

const theme = document.getElementById("theme");
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
}

function tellTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
}

theme.hidden = false;
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  tellTheme();
});
prefersDark.addEventListener("change", tellTheme);
tellTheme();

if (groups.length) {
  document.getElementById("groups").hidden = false;
  treemap(groupTable());
}

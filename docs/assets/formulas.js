// Set every formula of the page with KaTeX, which ships with the site.
document.querySelectorAll(".arithmatex").forEach(element => {
  const text = element.textContent.trim();
  const display = text.startsWith("\\[");
  katex.render(text.slice(2, -2), element, {displayMode: display, throwOnError: false, strict: "ignore"});
});

"""How the page looks, and the little that happens in the browser; both travel with the modules of the page."""

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.page h1 { font-size: 1.5rem; font-weight: 650; margin: 0; }
.page h2 { font-size: 1.1rem; font-weight: 650; margin: 0 0 .6rem; outline: none; }
.page .quiet, .why figcaption, .why dt, .why .words { color: color-mix(in srgb, var(--body-text-color) 72%, transparent); }
.page .quiet { font-size: .9rem; }
.page .heard { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.gradio-container .main .column, .gradio-container main .column { gap: 12px; }
.page p { margin: 0; }
.page button { font: inherit; color: inherit; cursor: pointer; }
.page button:focus-visible, .page a:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
.page a { color: var(--link-text-color); text-decoration: underline; }
.chips { display: flex; flex-wrap: wrap; gap: .4rem .5rem; align-items: center; }
.page .chip { border: 1px solid var(--border-color-primary); border-radius: 999px; padding: .3rem .8rem; text-align: left;
  background: var(--background-fill-primary); font-size: .9rem; max-width: 100%; overflow-wrap: anywhere; }
.page .chip:hover, .page .wide:hover { border-color: var(--color-accent); }
.page .wide { display: block; width: 100%; margin-top: .8rem; padding: .55rem; border-radius: 8px; font-weight: 600;
  border: 1px solid var(--border-color-primary); background: var(--button-secondary-background-fill); }
.status { display: flex; flex-wrap: wrap; gap: .3rem 1rem; justify-content: space-between; align-items: baseline; }
.status > span { display: flex; flex-wrap: wrap; gap: .8rem; align-items: baseline; }
.page .problem { border-left: 4px solid #d97706; background: color-mix(in srgb, #d97706 12%, transparent);
  padding: .6rem .8rem; border-radius: 0 8px 8px 0; overflow-wrap: anywhere; }
.page ol.results { list-style: none; margin: 0; padding: 0; display: grid; gap: .7rem;
  grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
.page ol.results li { margin: 0; padding: 0; }
.page ol.results button { width: 100%; height: 100%; padding: .35rem; border: 2px solid transparent; border-radius: 10px;
  background: var(--background-fill-secondary); display: flex; flex-direction: column; gap: .3rem; }
.page ol.results button:hover { border-color: var(--border-color-accent); }
.page ol.results button[aria-pressed=true] { border-color: var(--color-accent); }
.page ol.results img, .page .missing { width: 100%; aspect-ratio: 1 / 2; object-fit: contain; border-radius: 6px; margin: 0;
  background: color-mix(in srgb, currentColor 6%, transparent); }
.page .missing { display: grid; place-items: center; font-size: .8rem; padding: .4rem; text-align: center; }
.page .below { font-size: .85rem; line-height: 1.35; text-align: left; overflow-wrap: anywhere; width: 100%; }
.why { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 1rem; }
.why .figures { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin-bottom: .8rem; }
.why figure { margin: 0; text-align: center; }
.why figure img { width: 100%; max-height: 420px; object-fit: contain; border-radius: 6px; margin: 0; }
.why figcaption { font-size: .85rem; margin-top: .3rem; }
.why .words { line-height: 1.9; margin-bottom: .3rem; overflow-wrap: anywhere; }
.why mark { background: color-mix(in srgb, #1d91c0 calc(20% + 45% * var(--strength)), transparent);
  color: var(--body-text-color); border-radius: 5px; padding: .12rem .35rem; }
.why dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem .9rem; margin: .8rem 0 0; font-size: .9rem; }
.why dd { margin: 0; overflow-wrap: anywhere; }
.uploaded { display: flex; gap: .8rem; align-items: center; }
.uploaded img { height: 120px; width: auto; border-radius: 6px; margin: 0; }
footer { display: none !important; }
@media (prefers-reduced-motion: no-preference) { .page ol.results button { transition: border-color .12s; } }
@media (max-width: 640px) {
  .page ol.results { grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: .5rem; }
  .gradio-container > main, .gradio-container .main { padding: .8rem !important; }
}
"""

# Every button inside a part of the page carries what it does; the server is told only that.
PRESSED = """
element.addEventListener('click', (event) => {
  const copied = event.target.closest('[data-copy]');
  if (copied && navigator.clipboard) {
    event.preventDefault();
    navigator.clipboard.writeText(copied.href).then(() => { copied.textContent = 'Link copied'; });
    return;
  }
  const pressed = event.target.closest('[data-action]');
  if (pressed) trigger('click', {action: pressed.dataset.action, value: Number(pressed.dataset.value)});
});
"""

# The address of the page is the link of the present query; what else is in it stays.
ADDRESS = """
watch('value', () => {
  const said = element.querySelector('[data-link]');
  if (!said) return;
  const link = new URL(said.dataset.link, location.href);
  const theme = new URL(location.href).searchParams.get('__theme');
  if (theme) link.searchParams.set('__theme', theme);
  history.replaceState(history.state, '', link);
});
"""

# On a phone the explanation stands below the results: go there. Its heading takes the focus, for those who hear the page.
SHOW = """
watch('value', () => {
  const heading = element.querySelector('h2');
  if (!heading) return;
  heading.focus({preventScroll: true});
  if (element.getBoundingClientRect().top > window.innerHeight * 0.8 || window.innerWidth < 700)
    element.scrollIntoView({block: 'start'});
});
"""

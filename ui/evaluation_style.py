"""The look of the Evaluation tab, beside the page's own: light and dark by the theme's variables.

Gradio repeats every rule under a prefix and cuts selectors at their commas, so `:is(a, b)` cannot be used.
"""

CSS = """
#evaluation { --right: #0a7a5a; --wrong: #b3362b; --mark: #fde9b8; gap: 14px;
  --soft: color-mix(in srgb, var(--primary-500) 9%, var(--block-background-fill)); }
.dark #evaluation { --right: #4cc79c; --wrong: #f28b7d; --mark: #5a4612; }
#evaluation h3 { font-size: 1.05rem; font-weight: 600; margin: .2rem 0 .5rem; overflow-wrap: anywhere; }
#evaluation h5 { font-size: var(--text-sm); font-weight: 600; margin: 0 0 4px; color: var(--body-text-color-subdued);
  overflow-wrap: anywhere; }
#evaluation p { margin: 0 0 6px; }
#evaluation details > summary { cursor: pointer; padding: 3px 0; }
#evaluation .small summary { color: var(--body-text-color-subdued); }
#evaluation .small li, #evaluation .small dd, #evaluation .small dt { font-size: var(--text-sm); }
#evaluation summary:focus-visible, #evaluation .scroll:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
#evaluation-pick { align-items: flex-end; gap: 10px; }
#evaluation-pick #evaluation-report { flex: 1 1 260px; }
#evaluation-pick button.sm, #evaluation-downloads button, #evaluation-pager button, #evaluation-actions button {
  flex: 0 0 auto; width: auto; height: 40px; }
#evaluation-downloads { gap: 8px; align-items: center; }
#evaluation-downloads > :first-child { flex: 0 0 auto; width: auto !important; min-width: 0 !important; }
#evaluation .empty { padding: 28px 20px; border: 1px dashed var(--border-color-primary); border-radius: 12px; }

#evaluation .verdicts { margin: 0 0 8px; padding: 12px 14px 12px 30px; list-style: disc; border-radius: 10px;
  background: var(--soft); }
#evaluation .verdicts li { margin: 0 0 6px; overflow-wrap: anywhere; }
#evaluation .verdicts li:last-child { margin: 0; }
#evaluation .verdicts small { color: var(--body-text-color-subdued); font-size: var(--text-xs); }
#evaluation .small ul { margin: 4px 0; padding-left: 20px; list-style: disc; overflow-wrap: anywhere; }
#evaluation dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; }
#evaluation dt { color: var(--body-text-color); }

#evaluation .scroll { overflow-x: auto; border: 1px solid var(--border-color-primary); border-radius: 10px;
  margin-bottom: 8px; width: fit-content; max-width: 100%; }
#evaluation table { border-collapse: separate; border-spacing: 0; border: 0; margin: 0; padding: 0;
  table-layout: fixed; font-variant-numeric: tabular-nums; }
#evaluation th, #evaluation td { padding: 6px 12px; margin: 0; text-align: right; border: 0; vertical-align: top;
  border-top: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
#evaluation thead th { border-top: 0; overflow-wrap: anywhere; vertical-align: bottom; font-weight: 600; }
#evaluation thead th:first-child { width: 150px; }
#evaluation tr { border: 0; margin: 0; padding: 0; }
#evaluation thead th:first-child, #evaluation tbody th { text-align: left; font-weight: 400; position: sticky; left: 0;
  border-right: 1px solid var(--border-color-primary); }
#evaluation tbody th[title] { text-decoration: underline dotted var(--border-color-primary); text-underline-offset: 3px;
  cursor: help; }
#evaluation tbody th[scope="rowgroup"] { border-right: 0; font-weight: 600; font-size: var(--text-sm); padding: 12px 12px 4px;
  color: var(--body-text-color-subdued); }
#evaluation th[scope="rowgroup"] span { position: sticky; left: 12px; }
#evaluation td small { display: block; color: var(--body-text-color-subdued); font-size: var(--text-xs); white-space: nowrap; }

#evaluation-charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px;
  align-items: start; }
#evaluation-charts > * { min-width: 0 !important; min-height: 340px; } /* a place before the picture is there */
#evaluation-charts > .wide { grid-column: 1 / -1; }
/* Plotly writes its colours into the picture, so those of the page have to outrank them. */
#evaluation-charts .infolayer text, #evaluation-charts .xtick text, #evaluation-charts .ytick text {
  fill: var(--body-text-color) !important; }
#evaluation-charts .js-plotly-plot .gridlayer path { stroke: var(--border-color-primary) !important; }
#evaluation-charts .js-plotly-plot .zerolinelayer path { stroke: var(--body-text-color-subdued) !important; }

#evaluation-filters { gap: 10px; }
#evaluation-pager { gap: 10px; align-items: center; flex-wrap: nowrap; position: sticky; top: 0; z-index: 5;
  padding: 8px 0; background: var(--body-background-fill); }
#evaluation-pager > :nth-child(2) { flex: 1 1 auto; text-align: center; }
#evaluation-pager p { margin: 0; }
#evaluation .tag { font-weight: 400; font-size: var(--text-sm); padding: 2px 8px; border-radius: 99px;
  background: var(--soft); }
#evaluation .turn { border: 1px solid var(--border-color-primary); border-radius: 12px; margin-bottom: 12px;
  background: var(--block-background-fill); }
#evaluation .turn > summary { padding: 10px 14px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
#evaluation .turn[open] > summary .query { display: none; }
#evaluation .turn .number { font-weight: 600; margin-right: 8px; }
#evaluation .asked, #evaluation .replies { display: grid; gap: 10px; padding: 0 14px 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); }
#evaluation .replies { grid-template-columns: repeat(auto-fit, minmax(min(100%, 200px), 1fr)); }
#evaluation .said { border-radius: 10px; padding: 10px 12px; min-width: 0; background: var(--background-fill-secondary);
  border-top: 3px solid transparent; }
#evaluation .said p { white-space: pre-wrap; overflow-wrap: anywhere; }
#evaluation .said.customer { background: var(--soft); }
#evaluation .said.right { border-top-color: var(--right); }
#evaluation .said.wrong { border-top-color: var(--wrong); }
#evaluation h5 .right, #evaluation .facts .stated { color: var(--right); }
#evaluation h5 .wrong, #evaluation .facts .missing { color: var(--wrong); }
#evaluation h5 span { font-weight: 400; white-space: nowrap; margin-left: 4px; }
#evaluation .facts { list-style: none; padding: 0; margin: 6px 0 0; font-size: var(--text-sm); overflow-wrap: anywhere; }
#evaluation mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 1px; }

#evaluation .work { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 14px 16px;
  background: var(--block-background-fill); min-height: 150px; }
#evaluation progress { appearance: none; display: block; width: 100%; height: 10px; margin: 0 0 6px; border: 0;
  border-radius: 5px; overflow: hidden; background: var(--border-color-primary); }
#evaluation progress::-webkit-progress-bar { background: var(--border-color-primary); }
#evaluation progress::-webkit-progress-value { background: var(--primary-600); }
#evaluation progress::-moz-progress-bar { background: var(--primary-600); }
#evaluation progress:indeterminate::-moz-progress-bar { background: transparent; }
#evaluation .work, #evaluation .work p { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
#evaluation .notice { white-space: pre-line; overflow-wrap: anywhere; padding: 4px 0; }
#evaluation-saved { position: absolute; opacity: 0; pointer-events: none; width: 1px; height: 1px; overflow: hidden; }
/* Empty places take no gap. */
#evaluation .html-container:empty, #evaluation .block:has(> .html-container > .prose:empty) { display: none; }
@media (max-width: 640px) {
  #evaluation th, #evaluation td { padding: 6px 8px; font-size: var(--text-sm); }
  #evaluation thead th:first-child { width: 96px; }
  #evaluation-downloads > :first-child { flex: 1 1 100%; }
  #evaluation dl { grid-template-columns: 1fr; }
  #evaluation dd { margin: 0 0 6px; }
}
"""

"""The Space's entry: builds the page and serves it (`python app.py`)."""

from ui.app import build_app, launch_options, start_alone

demo = build_app()  # named demo: Gradio's own reloader (`gradio app.py`) looks for it

if __name__ == "__main__":
    start_alone()
    demo.launch(**launch_options())

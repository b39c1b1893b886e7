"""The custom elements that show a model at work, and their two adapters: Gradio's and the notebooks'."""

"""The app's tabs and the viewers that it shares with the notebooks."""

from labkit.ui.proxies import no_proxies
from labkit.ui.stubs import no_gradio_stub_files

with no_proxies(), no_gradio_stub_files():
    import gradio as gradio

"""The search page: type a sentence, see the people it describes, and why.

Read query.py (what is asked; links and history), filters.py, pictures.py, answers.py (what is found, and why), page.py (from
an action to what is shown), fragments.py and style.py (its HTML), layout.py and serving.py (Gradio), and rendered.py (a
gallery without real people).
"""

from cffa_hf.page.page import SearchPage
from cffa_hf.page.rendered import rendered_page
from cffa_hf.page.serving import serve

__all__ = [
    "SearchPage",
    "rendered_page",
    "serve",
]

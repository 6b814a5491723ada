"""The console and the REST interface (FastAPI, Jinja, htmx): what a person sees and does, of what views/ and acts/ offer.

A page is one file in pages/, a part of REST one file in rest/, each found by its name. It offers

    router      a fastapi.APIRouter; each of its operations takes a person (who.Viewer, Operator, Administrator, or Anybody)
    NAVIGATION  where the page stands among the others (found.Navigation), or None; only in pages/

A page renders a file of templates/ (render.page) and keeps itself up to date by asking for its parts again (render.live).
Operations are plain functions, which run in threads: only what is in this folder and its server is async.
"""

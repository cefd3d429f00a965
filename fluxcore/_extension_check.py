"""Says what to do where the compiled part is missing. Imported before everything that needs it."""

from pathlib import Path

try:
    import fluxcore._core  # noqa: F401
except ImportError as error:
    _folder = Path(__file__).parent
    raise ImportError(
        f"`fluxcore` was imported from `{_folder}`, where its compiled part cannot be: {error}"
        "\n\nIf that is a checkout, it stands in for the installed package, which Python would have found next: install"
        f" it so that both are one (`pip install -e {_folder.parent}`), or keep the working folder off the path"
        " (`python -P`). If it is an installation, reinstall it: `pip install --force-reinstall --no-deps CHECKOUT`."
    ) from error

"""What mkdocs does besides: equations become MathML, which needs no script, and each example is a notebook, too."""

import re
from pathlib import Path

import jupytext
from latex2mathml.converter import convert

_EXAMPLE = re.compile(r"^examples/(\d\d_\w+)\.py$")
# The template of notebooks loads a library of diagrams, of which no example has any, from another site.
_FOREIGN = re.compile(r'<script type="module">(?:(?!</script>).)*https?://.*?</script>', re.DOTALL)


def equation(source, language, css_class, options, md, **_kwargs) -> str:
    """Return the lines of a fence of LaTeX as a block of MathML each."""
    blocks = "".join(convert(line, display="block") for line in source.strip().splitlines() if line.strip())
    return f'<div class="{css_class}" tabindex="0">{blocks}</div>'


def on_config(config):
    """Let fences named `math` be equations."""
    fence = {"name": "math", "class": "equation", "format": equation}
    config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", []).append(fence)
    return config


def on_page_content(html, page, config, files):
    """Offer an example as a notebook and as a script, and let it load nothing from other sites."""
    example = _EXAMPLE.match(page.file.src_uri)
    if not example:
        return html
    name = example.group(1)
    links = f'<a href="{name}.ipynb" download>Notebook</a> <a href="{name}.py" download>Script</a>'
    return f'<p class="downloads">{links}</p>' + _FOREIGN.sub("", html)


def on_post_build(config):
    """Write the examples as notebooks without outputs, and as they are."""
    for script in sorted((Path(config.docs_dir) / "examples").glob("*.py")):
        place = Path(config.site_dir) / "examples"
        notebook = jupytext.read(script)
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        jupytext.write(notebook, place / f"{script.stem}.ipynb")
        (place / script.name).write_bytes(script.read_bytes())

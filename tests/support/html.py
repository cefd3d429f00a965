"""Looks at an HTML page as a browser would."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Elements(HTMLParser):
    """Collects tags and attributes, and fails on tags that do not nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def external_references(html):
    """Whatever would make a browser ask another machine, or read another file."""
    elements = Elements(html)
    loading = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
    references = [value for name, value in elements.attributes if name in loading]
    references += re.findall(
        r"url\(\s*['\"]?([^)'\"]*)", "".join(re.findall(r"<style.*?</style>|<[^>]*>", html, re.DOTALL))
    )
    references += re.findall(r"@import[^;]*", html)
    return [reference for reference in references if not reference.startswith("#")]

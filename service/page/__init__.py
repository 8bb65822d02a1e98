"""The web page at `/`: its files in `static/`, and how they are served.

It uses the public API only.
"""

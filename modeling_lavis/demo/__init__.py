# SPDX-License-Identifier: Apache-2.0
"""The page of `modeling-lavis page`: models to try in a browser, on this machine.

* `models`: the models, and the pipelines of the tabs.
* `captions`, `questions`, `matching`, `search`, `conversion`, `about`: one tab each.
* `page`: puts the tabs together. `server`: serves the page, with what browsers may load and who may ask.
* `folders`: paths that a visitor may name. `media`: images and videos that a visitor sends. `markup`: HTML of results.

Only the modules of tabs, `page` and `server` import gradio, which is an optional package.
"""

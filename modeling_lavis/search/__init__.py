# SPDX-License-Identifier: Apache-2.0
"""Index and search: features of collections on disk, and what is most similar to a text, an image or a video.

* `building`: makes and updates indexes, as jobs that can be interrupted.
* `index`: an index that is open, and what became of its files.
* `queries`: queries, with re-ranking by the matching head.
* `duplicates`: items that are nearly equal.

The files of an index are those of `modeling_lavis.evaluation.index_files`.
"""

from modeling_lavis.search.building import IndexSummary, build_index, remove_from_index
from modeling_lavis.search.duplicates import near_duplicates
from modeling_lavis.search.index import SearchIndex
from modeling_lavis.search.queries import Searcher

__all__ = ["IndexSummary", "SearchIndex", "Searcher", "build_index", "near_duplicates", "remove_from_index"]

# SPDX-License-Identifier: Apache-2.0
"""Index and search: features of collections on disk, and what is most similar to a text, an image or a video.

* `building`: makes an index and brings it up to date.
* `updates`: one update of it, which can be interrupted.
* `features`: the job of an update, which computes features.
* `merging`: the next version of an index, of items that it had and new ones.
* `removing`: removes items.
* `index`: an index that is open, and what became of its files.
* `queries`: queries, with re-ranking by the matching head.
* `duplicates`: items that are nearly equal.

The files of an index are those of `modeling_lavis.evaluation.index_files`.
"""

from modeling_lavis.search.building import build_index
from modeling_lavis.search.duplicates import near_duplicates
from modeling_lavis.search.index import SearchIndex
from modeling_lavis.search.queries import Searcher
from modeling_lavis.search.removing import remove_from_index
from modeling_lavis.search.summary import IndexSummary

__all__ = ["IndexSummary", "SearchIndex", "Searcher", "build_index", "near_duplicates", "remove_from_index"]

"""The page to draw on: its API, the batching of requests, and the files of the page."""

"""The figures of arXiv:2402.03902 on this package's own numbers; see `runner`."""

"""Who said what: chat templates, the spans of the replies, and the role of every token."""

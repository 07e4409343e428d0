"""Who said what: chat templates, the spans of the replies, and the role of every token."""

from mutua.chat.reply_pattern import ReplyPattern
from mutua.chat.roles_of import roles_of

__all__ = ["ReplyPattern", "roles_of"]

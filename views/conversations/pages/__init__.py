"""Pages of conversations about a project: the list, a new one, one with its timeline, and its settings."""

from views.conversations.pages import conversation_forms as conversation_forms
from views.conversations.pages import conversation_list_page as conversation_list_page
from views.conversations.pages import conversation_page as conversation_page
from views.conversations.pages import conversation_page_events as conversation_page_events
from views.conversations.pages import conversation_settings_page as conversation_settings_page
from views.conversations.pages import timeline_pages as timeline_pages
from views.conversations.pages.conversation_blueprint import bp as bp

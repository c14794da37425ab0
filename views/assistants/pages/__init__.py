"""Pages of assistants: the list, the editor with its test, versions, publication, documents, tools and secrets."""

from views.assistants.pages import assistant_editor as assistant_editor
from views.assistants.pages import assistant_fate as assistant_fate
from views.assistants.pages import assistant_files as assistant_files
from views.assistants.pages import assistant_list as assistant_list
from views.assistants.pages import assistant_publication as assistant_publication
from views.assistants.pages import assistant_versions as assistant_versions
from views.assistants.pages import secret_pages as secret_pages
from views.assistants.pages import tool_pages as tool_pages
from views.assistants.pages.assistant_blueprint import bp as bp

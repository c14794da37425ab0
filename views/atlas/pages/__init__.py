"""Pages of the map of a project: the tab Knowledge."""

from views.atlas.pages import concept_page as concept_page
from views.atlas.pages import correction_pages as correction_pages
from views.atlas.pages import find_page as find_page
from views.atlas.pages import map_page as map_page
from views.atlas.pages import words_pages as words_pages
from views.atlas.pages.atlas_blueprint import bp as bp

"""Dialects: the API formats of clients, one per file."""

from models.gateway.dialects.chat import ChatDialect, PlaygroundDialect, TurnsDialect
from models.gateway.dialects.codebuff import CodebuffDialect
from models.gateway.dialects.compaction import CompactionDialect
from models.gateway.dialects.completions import CompletionsDialect
from models.gateway.dialects.embeddings import EmbeddingsDialect
from models.gateway.dialects.images import ImagesDialect
from models.gateway.dialects.messages import MessagesDialect
from models.gateway.dialects.moderations import ModerationsDialect
from models.gateway.dialects.rerank import RerankDialect
from models.gateway.dialects.responses import ResponsesDialect
from models.gateway.dialects.searches import DocsSearchDialect, WebSearchDialect
from models.gateway.dialects.speech import SpeechDialect
from models.gateway.dialects.transcriptions import TranscriptionsDialect

CHAT, CODEBUFF, PLAYGROUND, TURNS = ChatDialect(), CodebuffDialect(), PlaygroundDialect(), TurnsDialect()
MESSAGES, RESPONSES = MessagesDialect(), ResponsesDialect()
COMPACTION = CompactionDialect()
EMBEDDINGS, COMPLETIONS = EmbeddingsDialect(), CompletionsDialect()
MODERATIONS, RERANK = ModerationsDialect(), RerankDialect()
WEB_SEARCH, DOCS_SEARCH = WebSearchDialect(), DocsSearchDialect()
IMAGES, IMAGE_EDITS = ImagesDialect(), ImagesDialect("image_edits")
SPEECH = SpeechDialect()
TRANSCRIPTIONS, TRANSLATIONS = TranscriptionsDialect(), TranscriptionsDialect("translations")

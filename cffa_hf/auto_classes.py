"""The model classes, made known to `AutoModel`, `AutoConfig` and `AutoProcessor`: importing this module does it."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, CLIPProcessor

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel, CFFAOutput

__all__ = ["CFFAConfig", "CFFAForPreTraining", "CFFAModel", "CFFAOutput"]

AutoConfig.register(CFFAConfig.model_type, CFFAConfig)
AutoModel.register(CFFAConfig, CFFAModel)
AutoModelForPreTraining.register(CFFAConfig, CFFAForPreTraining)
AutoProcessor.register(CFFAConfig, CLIPProcessor)

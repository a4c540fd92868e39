"""Suggest a setting for an unknown flag: by the names of settings in other tools, or by spelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from detrkit.files import ONNX_OPSET

SYNONYMS = {
    "lr": "learning_rate learn_rate lr0 base_lr initial_lr init_lr eta lr_transformer",
    "lr_backbone": "backbone_lr lr_encoder",
    "weight_decay": "wd l2 decay weightdecay",
    "fixed_batch": "batch dynamic_batch static_batch",
    "batch_size": "b bs batch batchsize train_batch_size per_device_train_batch_size samples_per_gpu images_per_gpu "
    "ims_per_batch total_batch_size mini_batch_size eval_batch_size val_batch_size",
    "epochs": "e ep epoch num_epochs n_epochs max_epochs num_train_epochs total_epochs num_iterations iterations "
    "iters max_iter max_iters max_steps num_steps total_steps",
    "max_minutes": "time max_time time_limit max_hours",
    "num_threads": "threads cpu_threads omp_num_threads",
    "image_size": "size imgsz img_size imsize img image_scale img_scale scale input_size input_shape resolution resize "
    "min_size short_side shortest_edge max_size height width crop_size",
    "num_workers": "j workers n_workers nworkers num_work dataloader_num_workers dataloader_workers threads "
    "num_threads",
    "devices": "gpus num_gpus n_gpu n_gpus ngpus nproc nproc_per_node world_size num_processes",
    "device": "gpu gpus gpu_id gpu_ids cuda cpu use_gpu use_cuda no_cuda accelerator mps",
    "num_nodes": "nodes nnodes num_machines",
    "output_dir": "o out output output_path out_dir outdir output_folder save_dir save_path save_to work_dir workdir "
    "log_dir logdir logging_dir project name run_name exp_name exp experiment results results_dir run_dir dest "
    "destination",
    "output": "o out output_dir output_path output_file outfile save_path dest",
    "weights": "w weight checkpoint checkpoint_path ckpt ckpt_path model_path model_weights model_name_or_path "
    "pretrained pretrained_weights pretrained_model pretrain init init_from load load_from load_weights restore "
    "finetune fine_tune model",
    "resume": "resume_from resume_from_checkpoint continue continue_from restart",
    "data": "d dataset datasets dataset_path dataset_dir data_dir data_path data_root data_folder root train "
    "train_data train_dir input coco_path dataset_root img_path",
    "source": "i data input inputs image images img image_path image_dir input_dir input_path files video "
    "videos folder",
    "image": "i input source img image_path image file",
    "runs": "run run_dir run_dirs logs logdir input",
    "data_format": "dataset_file dataset_format dataset_type dataset_name format annotation_format label_format",
    "train_json": "annotations annotation ann ann_file ann_path train_ann train_ann_file train_annotations "
    "train_annotation labels_json json_train annotation_file labels_path",
    "val_json": "val_ann val_ann_file val_annotations val_annotation json_val annotations ann_file",
    "train_images": "train_img train_img_dir train_image_dir train_path train_folder img_dir image_dir images_dir "
    "img_folder img_prefix",
    "val_images": "val_img val_img_dir val_image_dir val_dir val_path val_folder val_data val img_dir image_dir",
    "val_fraction": "val_split validation_split val_size val_ratio val_percent test_size split_ratio",
    "split": "subset mode set dataset_split",
    "threshold": "conf confidence conf_thres conf_threshold confidence_threshold score score_thr score_thresh "
    "score_threshold box_threshold min_score min_confidence thresh thr keep_threshold",
    "top_k": "topk k max_det max_dets max_detections num_select num_top_queries detections_per_img",
    "max_dets": "top_k topk max_det max_detections maxdets",
    "max_detections": "top_k topk max_det max_dets",
    "max_queries": "top_k topk max_det max_detections",
    "num_classes": "n_classes nclasses nc num_labels num_class classes_num class_num num_categories",
    "num_queries": "n_queries nqueries num_query queries_num num_object_queries num_proposals num_detections",
    "nheads": "heads n_heads num_heads num_attention_heads attention_heads n_head",
    "hidden_dim": "hidden hidden_size d_model dim model_dim embed_dim embedding_dim width embed_dims",
    "enc_layers": "encoder_layers num_encoder_layers n_encoder_layers num_enc_layers layers num_layers",
    "dec_layers": "decoder_layers num_decoder_layers n_decoder_layers num_dec_layers layers num_layers",
    "dim_feedforward": "ffn_dim dim_ff ff_dim feedforward_dim mlp_dim d_ff encoder_ffn_dim feedforward",
    "dropout": "drop drop_rate p_dropout attn_drop",
    "backbone": "feature_extractor base_net resnet timm_model",
    "backbone_weights": "pretrained_backbone backbone_pretrained backbone_checkpoint pretrained",
    "dilation": "dilated dc5 atrous",
    "position_embedding": "pos_embed pos_embedding position_encoding positional_encoding pe pos",
    "model": "m arch architecture net network model_name model_type variant",
    "config": "c cfg config_file config_path cfg_file yaml settings opts hyp params",
    "lr_schedule": "scheduler lr_scheduler sched lr_policy lr_scheduler_type cos_lr cosine schedule",
    "lr_drop": "step_size lr_step lr_steps milestones lr_milestones decay_epochs lr_decay_epochs steps",
    "warmup_steps": "warmup warmup_epochs warmup_iters warm_up warmup_ratio num_warmup_steps",
    "patience": "early_stopping early_stop early_stopping_patience es_patience",
    "clip_max_norm": "grad_clip clip clip_grad clip_grad_norm max_grad_norm gradient_clip gradient_clip_val max_norm",
    "accumulate_grad_batches": "accum accumulate gradient_accumulation gradient_accumulation_steps grad_accum "
    "grad_accumulation accumulation_steps accum_iter update_freq accum_steps",
    "precision": "amp fp16 half mixed_precision bf16 dtype use_amp int8 quantize fp32 float16 bfloat16",
    "compile": "torch_compile jit torchscript use_compile",
    "ema": "ema_decay use_ema model_ema ema_rate",
    "augmentation": "aug augment augmentations data_aug transforms transform fliplr hflip flip random_flip crop "
    "auto_augment",
    "vertical_flip": "flipud vflip",
    "mixup": "mix_up mix",
    "copy_paste": "copypaste cp",
    "color_jitter": "color colour colorjitter jitter hsv hsv_h hsv_s hsv_v brightness photometric",
    "multi_scale": "multiscale random_resize scale_jitter scale_range",
    "no_aug_epochs": "close_mosaic plain_epochs no_aug_epoch stop_epoch",
    "num_queries_one2many": "hybrid_queries",
    "k_one2many": "hybrid_repeat",
    "encoder_expansion": "hybrid_expansion hidden_expansion",
    "square_resize": "square keep_ratio letterbox rect",
    "eval_every": "eval_interval val_interval val_every eval_freq val_freq evaluation_interval check_val_every_n_epoch "
    "eval_period eval_steps test_every",
    "checkpoint_every": "save_every save_period save_freq save_interval save_steps checkpoint_interval checkpoint_freq "
    "ckpt_interval snapshot",
    "overfit": "limit limit_data subset max_samples max_train_samples fast_dev_run debug dry_run overfit_batches",
    "seed": "random_seed rng_seed manual_seed",
    "task": "mode problem segment segmentation",
    "masks": "mask segmentation seg use_masks with_masks",
    "cutouts": "save_crop save_crops crops crop",
    "no_images": "nosave no_save no_draw save_img save_images draw visualize vis save_vis",
    "detections": "predictions preds results dt det_file result_file pred_json",
    "max_errors": "num_errors plot_errors num_vis",
    "wandb": "use_wandb log_wandb wandb_project wandb_name report_to",
    "group_by_aspect": "aspect_ratio_group_factor group_by_aspect_ratio rect",
    "cache_gb": "cache cache_images cache_dir ram",
    "set_cost_class": "cost_class class_cost matcher_cost_class",
    "set_cost_bbox": "cost_bbox bbox_cost matcher_cost_bbox l1_cost",
    "set_cost_giou": "cost_giou giou_cost matcher_cost_giou",
    "bbox_loss_coef": "bbox_loss_weight box_loss_weight l1_loss_coef loss_bbox",
    "giou_loss_coef": "giou_loss_weight iou_loss_weight loss_giou",
    "cls_loss_coef": "class_loss_weight cls_loss_weight loss_ce loss_class ce_loss_coef",
    "class_loss": "focal focal_loss loss loss_type criterion",
    "no_aux_loss": "aux_loss auxiliary_loss",
    "eos_coef": "eos_coefficient no_object_weight background_weight",
    "box_refine": "with_box_refine box_refinement iterative_refine",
    "query_init": "two_stage queries",
    "feature_levels": "num_feature_levels levels strides",
    "denoising": "dn use_dn",
    "query_nms_iou": "distinct nms iou iou_thres iou_threshold nms_threshold nms_iou",
    "builtin": "end2end end_to_end with_postprocess postprocess nms include_nms",
    "format": "f type export_format target include",
    "size": "imgsz img_size image_size input_shape input_size static shape height width",
    "points": "point xy pixel",
    "minutes": "epochs time max_minutes duration",
    "json": "output output_dir out report save_json o",
    "quiet": "q silent no_progress no_bar",
}
"""Setting -> its names in other tools. Of several settings that match, the first that the command has is suggested."""

CLASSES = "the classes are those of the data set or, without one, of the weights"
LOGS = "detrkit train always writes the files of TensorBoard, to tensorboard/ in the run folder"
TABLES = "detrkit predict always writes detections.json and detections.csv"

MIN_SIMILARITY = 0.7
"""Lowest similarity of spelling, 0..1, at which a name counts as a misspelling of another."""

NOT_NEEDED = {
    "eval evaluate evaluation test test_only eval_only val validate validation": "detrkit eval measures a detector",
    "dynamic dynamic_axes dynamic_shapes": "a file takes images of any size and number unless "
    "--size and --fixed_batch say otherwise",
    "num_classes n_classes nclasses nc num_labels num_class classes_num class_num num_categories": CLASSES,
    "classes class_names names labels class_list categories label_map_path single_cls label": CLASSES,
    "optimizer optim opt solver optimiser adam adamw sgd momentum betas nesterov": ""
    "the optimizer is AdamW, with --lr, --lr_backbone and --weight_decay in training",
    "opset opset_version onnx_opset": f"ONNX files have opset {ONNX_OPSET}",
    "simplify onnxsim simplified optimize": "exported graphs need no simplifying",
    "nms iou iou_thres iou_threshold nms_threshold nms_iou iou_thresh": "a DETR needs no non-maximum suppression",
    "quiet q silent no_progress no_bar": "a progress bar is shown in a terminal alone, and > /dev/null hides the rest",
    "verbose v log_level loglevel progress debug": "long commands show their progress unless --quiet is given",
    "freeze freeze_backbone frozen frozen_backbone freeze_layers train_backbone": "--lr_backbone 0 "
    "freezes the backbone in training",
    "anchors anchor_sizes anchor aspect_ratios anchor_ratios": "a DETR needs no anchor boxes; queries that start as "
    "learned boxes are --query_init anchors in training",
    "tensorboard tb use_tensorboard logger": LOGS,
    "save_txt save_json save_csv save_conf": TABLES,
    "show view view_img display plot plots visualize": "drawn images are written to the output folder",
    "exist_ok overwrite force": "choose another folder or file to write to",
    "distributed ddp launcher dist_url dist_backend sync_bn local_rank rank": "--devices and "
    "--num_nodes start the processes in training",
    "pin_memory persistent_workers prefetch_factor": "loading has one setting, --num_workers",
    "deterministic benchmark cudnn_benchmark": "training is repeated exactly by the same --seed",
    "hub_token token api_key push_to_hub": "detrkit uploads nothing",
    "mean std normalize image_mean image_std": "normalization comes with the weights or the backbone",
    "conf confidence threshold conf_thres score_threshold": "detections of every score are used",
}
"""Names of settings in other tools -> why detrkit has no such setting."""


def suggestion(
    word: str,
    known: Iterable[str],
    elsewhere: Mapping[str, Iterable[str]] | None = None,
    *,
    positionals: Iterable[str] = (),
    dashes: str = "--",
) -> str:
    """Suggest a setting in place of an unknown one, as the end of an error message.

    Args:
        word: unknown setting, with or without dashes.
        known: names of the settings of this command.
        elsewhere: names of the settings of each other command.
        positionals: settings of this command that are given without a flag.
        dashes: prefix of a suggested name: `--` for flags, empty for YAML keys and Python.

    Returns:
        `; did you mean '--lr'?`, `; a DETR needs no ...`, or `, nor one of a similar name`.
    """
    names = list(known)
    plain = word.lstrip("-").replace("-", "_").casefold()
    if plain in names:
        return f"; did you mean {dashes + plain!r}?"
    for name, synonyms in SYNONYMS.items():
        if name in names and plain in synonyms.split():
            if name in positionals:
                return f"; give {name.upper()} without a flag"
            return f"; did you mean {dashes + name!r}?"
    for synonyms, reason in NOT_NEEDED.items():
        if plain in synonyms.split():
            return f"; {reason}"
    others = [command for command, settings in (elsewhere or {}).items() if plain in settings]
    if others:
        return f"; it belongs to detrkit {' and '.join([', '.join(others[:-1])] * (len(others) > 1) + others[-1:])}"
    close = get_close_matches(plain, names, n=1, cutoff=MIN_SIMILARITY)
    return f"; did you mean {dashes + close[0]!r}?" if close else ", nor one of a similar name"

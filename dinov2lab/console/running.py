"""Commands that train: a study, a recipe, a search."""

import typer

from dinov2lab import options


def run(
    target: options.Target,
    sets: options.Sets = None,
    workspace: options.Place = options.LAB,
    data_root: options.DataRoot = options.HERE,
    reports: options.Reports = options.REPORTS,
    jobs: options.Jobs = None,
    device: options.Device = "auto",
    nproc: options.Nproc = 1,
    micro_batches: options.MicroBatches = 1,
    side_by_side: options.SideBySide = 1,
    recompute: options.Recompute = "nothing",
    shard: options.Cut = "none",
    checkpoints: options.Checkpoints = 1,
    rerun: options.Rerun = False,
    more_seeds: options.MoreSeeds = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
) -> None:
    """Run a study and write its report, or run one recipe. What has a result is not run again."""
    from dinov2lab import commands, overview, terminal
    from dinov2lab.spec.study import Study, expand
    from dinov2lab.store.folders import Workspace

    if dry_run:
        commands.refuse("--dry-run shows what is left to do, and that would be all of it", rerun=rerun)
    place = Workspace(workspace)
    found = commands.find_either(target, sets or (), place)
    if more_seeds:
        found = commands.with_more_seeds(found, more_seeds, place)
    if launcher == "slurm":
        from dinov2lab import cluster

        cluster.refuse_local(
            device=device != "auto",
            nproc=nproc > 1,
            micro_batches=micro_batches > 1,
            recompute=recompute != "nothing",
            shard=shard != "none",
            checkpoints=checkpoints > 1,
            side_by_side=side_by_side > 1,
        )
        where, how = cluster.Places(place, data_root, reports), {"rerun": rerun, "dry_run": dry_run, "as_json": as_json}
        raise typer.Exit(cluster.run(found, where, profiles or (), slurm or (), jobs=jobs, **how))
    commands.refuse_slurm_words(profiles, slurm)
    if not isinstance(found, Study):
        commands.refuse("is for a study; a recipe is one run", jobs=jobs)
    cells = expand(found) if isinstance(found, Study) else (found,)
    if dry_run and isinstance(found, Study) and found.untuned:
        from dinov2lab import tuning

        tuning.show_tuning(found, place, as_json)
        return
    if dry_run:
        terminal.show_plan(overview.planned(cells, place), as_json)
        return
    from dinov2lab.data.source import Roots

    jobs = jobs if isinstance(found, Study) else 1
    roots, (jobs, resources) = Roots(data_root, place.cache), commands.resources_for(jobs, device, nproc)
    resources = resources.model_copy(update={"checkpoints": checkpoints})
    resources = commands.in_parts(resources, micro_batches, side_by_side, recompute, shard, cells)
    if isinstance(found, Study) and found.untuned:
        from dinov2lab import tuning

        found = tuning.tune_here(found, place, roots, reports, jobs, resources)
    if not isinstance(found, Study):
        result = commands.run_recipe(found, place, roots, resources, rerun=rerun)
        terminal.show_result(result, place.run(found.run).path, as_json)
        raise typer.Exit(int(result.status == "failed"))
    report = reports / found.name
    failed = commands.run_study(found, place, roots, report, jobs=jobs, resources=resources, rerun=rerun)
    terminal.show_verdict(found, commands.verdict_of(report), report, as_json)
    if failed:
        terminal.note(f"{terminal.plural(failed, 'run')} failed: dinov2lab status {found.name}")
        raise typer.Exit(1)


def search(
    target: options.SearchName,
    sets: options.Sets = None,
    workspace: options.Place = options.LAB,
    data_root: options.DataRoot = options.HERE,
    reports: options.Reports = options.REPORTS,
    jobs: options.Jobs = None,
    device: options.Device = "auto",
    storage: options.Storage = None,
    confirm: options.Confirm = 0,
    confirm_seeds: options.ConfirmSeeds = options.CONFIRM_SEEDS,
    transfer: options.TransferFrom = None,
    dashboard: options.Dashboard = False,
    port: options.Port = options.PORT,
    as_json: options.Json = False,
    launcher: options.Launcher = "local",
    profiles: options.Profiles = None,
    slurm: options.SlurmSets = None,
) -> None:
    """Search a recipe's space for what does best on val, and write its report. The same command again goes on."""
    from dinov2lab import commands, searching
    from dinov2lab.store.folders import Workspace

    commands.refuse("is for --dashboard", port=port != options.PORT and not dashboard)
    commands.refuse("is for --confirm K", confirm_seeds=confirm_seeds != options.CONFIRM_SEEDS and not confirm)
    found, place = searching.find_search(target, sets or (), transfer or ()), Workspace(workspace)
    again, here = searching.Again(confirm, confirm_seeds), commands.resources_for(jobs, device)
    if dashboard:
        from dinov2lab.lab.dashboard import serve

        slurm_asked, flags = launcher == "slurm", {"json": as_json, "confirm": confirm, "jobs": jobs}
        commands.refuse("does nothing beside --dashboard, which runs nothing", launcher=slurm_asked, **flags)
        raise typer.Exit(serve(found, place, storage, port))
    if launcher == "slurm":
        from dinov2lab import cluster

        commands.refuse("on Slurm a profile says it: --slurm gpus_per_node=N", device=device != "auto")
        where, words = cluster.Places(place, data_root, reports), (profiles or (), slurm or ())
        raise typer.Exit(cluster.search(found, where, *words, again, jobs=jobs, storage=storage, as_json=as_json))
    commands.refuse_slurm_words(profiles, slurm)
    raise typer.Exit(searching.search(found, place, data_root, reports, again, here, storage=storage, as_json=as_json))
